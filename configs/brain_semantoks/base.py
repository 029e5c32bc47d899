r"""Brain-Semantoks: 60 M parameters over 457 regions in nine networks.

    neurofm pretrain brain_semantoks/base --workdir RUN data.path=DIR

DIR is what `neurofm prepare fmri` made, at a repetition time of 2 s. The published
recipe (arXiv 2512.11582 and its released code): 512 subjects a step, two crops of 200 s
of each; AdamW at 1.4e-3, whose weight decay rises from 0.05 to 0.3; 100 epochs of
39,139 recordings, which are about 7,600 steps; the network term falls to 0 over the
first twentieth. Not trained to the end by us. What differs from the released code: the
coding rate is of the whole batch on any number of devices (`task.rate_parts` is as
released), kernel norms are fixed when the run begins, and networks that a recording
lacks are hidden.
"""

from neurofm.config import Experiment, Train
from neurofm.models.brain_semantoks import BrainSemantoks
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=BrainSemantoks(),
        optim=Optim(
            lr=1.4e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            weight_decay_end=0.3,
            clip_norm=1.0,
            warmup=0.03,
        ),
        train=Train(steps=7_600, batch_size=512, checkpoint_every=380),
    )
