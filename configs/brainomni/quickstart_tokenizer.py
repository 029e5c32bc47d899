r"""The tokenizer that `neurofm quickstart --system brainomni` trains: EEG at 128 Hz.

    neurofm quickstart --system brainomni

generates its data and trains both stages; the same recipe on recordings of your own:

    neurofm pretrain brainomni/quickstart_tokenizer --workdir TOKENIZER data.path=DIR
    neurofm pretrain brainomni/quickstart --workdir RUN data.path=DIR \
        init.frozen.tokenizer=TOKENIZER

What differs from the published recipe: it decodes log-spectra at the sensors, not
waveforms, which keep the phases of a rhythm and lose how it moves; one window of 3 s,
patches of 125 ms, 8 sources of width 64, 2 quantisers of 64 codes whose averages move
ten times as fast. Keys of the sources learn ten times as fast as the rest: at first
they see all sensors alike, of which the average reference leaves nothing, and all
vectors fall on one code.
"""

from neurofm.config import Data, Eval, Experiment, Train
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.optim import Group, Optim


def config() -> Experiment:
    return Experiment(
        task=BrainTokenizer(
            sfreq=128.0,
            segment_samples=384,
            n_sensors=32,
            window_samples=384,
            n_filters=16,
            ratios=(16,),
            width=64,
            n_sources=8,
            n_quantizers=2,
            n_codes=64,
            code_width=64,
            codebook_decay=0.9,
            target="logspec",
        ),
        data=Data(buckets=2),
        optim=Optim(
            lr=4e-3,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            clip_norm=1.0,
            warmup=0.1,
            groups=(Group(path="to_sources/key", lr_scale=10),),
        ),
        train=Train(steps=700, batch_size=8, log_every=20, checkpoint_every=350),
        eval=Eval(every=0),
    )
