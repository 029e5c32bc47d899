r"""The first stage that `neurofm quickstart --system duin` trains: sEEG at 400 Hz.

    neurofm quickstart --system duin

generates its data and trains all stages; the same recipe on recordings of your own:

    neurofm pretrain duin/quickstart_vqvae --workdir CODES data.path=DIR
    neurofm pretrain duin/quickstart --workdir RUN data.path=DIR \
        init.frozen.tokenizer=CODES
    neurofm finetune duin/quickstart_words --from RUN --workdir WORDS \
        data.path=LABELLED data.target=COLUMN

What differs from `duin/vqvae`: segments of 2 s, tokens of width 64, 2 blocks and 1 in
the decoder, power of 13 Hz and more; 64 codes of width 32 that move ten times as fast
and are revived.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.duin_trunk import Trunk
from neurofm.models.duin_vqvae import DuINVQVAE
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=DuINVQVAE(
            trunk=Trunk(
                sfreq=400.0,
                subjects=("sub-01",),
                segment_samples=800,
                patch_samples=40,
                convs=((64, 19, 20), (32, 3, 1)),
                depth=2,
                heads=4,
                head_width=16,
                mlp_width=256,
                dropout=0.0,
            ),
            n_codes=64,
            code_width=32,
            codebook_decay=0.9,
            revival="random",
            decoder_depth=1,
            bands_hz=((13, 30), (30, 50), (50, 70), (70, 110), (110, 150)),
        ),
        optim=Optim(
            lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, clip_norm=1.0, warmup=0.1
        ),
        train=Train(steps=800, batch_size=32, log_every=20, checkpoint_every=400),
        eval=Eval(every=0),
    )
