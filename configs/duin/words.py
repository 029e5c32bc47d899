r"""Fine-tune Du-IN on words, by the released protocol.

    neurofm finetune duin/words --from MODEL --workdir RUN \
        data.path=DIR data.target=COLUMN data.around=[-0.5,2.5]

MODEL is a run of `duin/base`, `duin/vqvae` or `duin/tiny`, or what `neurofm import
duin` wrote; give that a --config whose key `subjects` names them as DIR does. Source:
arXiv 2405.11459 and its released code: all tokens side by side, a hidden layer of 128,
everything is trained; trials move by up to 0.3 s either way; 200 epochs in batches of
32. What differs: scores are compared with the word as they are (`task.scores=released`
takes their sigmoids), the norms of the tokenizer keep their statistics, and the epoch
with the best validation is tested, whatever its test.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.duin import DuIN
from neurofm.models.finetune import Finetune
from neurofm.optim import Group, Optim
from neurofm.signals.augment import Augment

# Biases and norms; the offsets of subjects are a linear map's and do decay.
UNDECAYED = r"(?<!subjects)(?<!channels)/bias$|scale$|mask_token$"


def config() -> Experiment:
    return Experiment(
        task=Finetune(
            task=DuIN(),
            head="flat",
            hidden=128,
            augment=Augment(shift_samples=300),
        ),
        optim=Optim(
            lr=2e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            clip_norm=0.0,
            warmup=0.1,
            floor=0.025,
            epochs=200,
            groups=(Group(path=UNDECAYED, weight_decay=0.0),),
        ),
        train=Train(epochs=200.0, batch_size=32, keep=1),
        eval=Eval(crops=100_000, metric="accuracy"),
        seed=42,
    )
