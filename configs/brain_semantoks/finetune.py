r"""Fine-tune Brain-Semantoks on classes of recordings, by the released protocol.

    neurofm finetune brain_semantoks/finetune --from MODEL --workdir RUN \
        data.path=DIR data.target=COLUMN

MODEL is a run of `brain_semantoks/base` or `tiny`, or what `neurofm import
brain_semantoks` wrote. Source: arXiv 2512.11582 and its released code: the mean over
tokens and CLS of the teacher, 50 epochs in batches of 16 random crops, AdamW at 6.25e-6
whose rate falls by 0.9 from each layer to the one below; held-out recordings are read
in 8 evenly spaced crops, whose class scores are averaged. What differs: no batch norm
before the head and no augmentation, and the epoch with the best validation is tested.
"""

from neurofm.config import Data, Eval, Experiment, Train
from neurofm.models.brain_semantoks import BrainSemantoks
from neurofm.models.finetune import Finetune
from neurofm.optim import Group, Optim

DECAY = 0.9
BARE = "(bias|scale|scale_attn|scale_mlp)$"  # without weight decay


def config() -> Experiment:
    return Experiment(
        task=Finetune(task=BrainSemantoks(), layer="cls_avg"),
        data=Data(even_windows=8),
        optim=Optim(
            lr=1e-4 * 16 / 256 / DECAY,  # so that the last block has that of the head
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            clip_norm=1.0,
            warmup=0.0,
            layers=("(mask_token|cls_token|_embedding)$", "tokenizers/", "blocks/"),
            layer_decay=DECAY,
            groups=(
                Group(path=f"(tokenizers|blocks)/.*{BARE}", weight_decay=0.0),
                Group(path=BARE, lr_scale=DECAY, weight_decay=0.0),
                Group(path="^head/", lr_scale=DECAY),
            ),
        ),
        train=Train(epochs=50.0, batch_size=16, keep=1),
        eval=Eval(crops=100_000, metric="balanced_accuracy"),
    )
