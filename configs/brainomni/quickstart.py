r"""The network over codes that `neurofm quickstart --system brainomni` trains.

    neurofm quickstart --system brainomni

generates its data and trains both stages; `brainomni/quickstart_tokenizer` is the first
and says how to train both on recordings of your own.

What differs from the published recipe: 3 blocks of width 64 over windows of 3 s; spans
of 750 ms are masked over all sources at once, and tokens reach the blocks with unit
mean square. Masked one by one as released, codes are given away by their neighbours.
"""

from neurofm.config import Data, Eval, Experiment, Train
from neurofm.models.brainomni import BrainOmni
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=BrainOmni(
            tokenizer=BrainTokenizer(
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
            segment_samples=384,
            n_sensors=32,
            overlap=0.0,
            width=64,
            depth=3,
            heads=4,
            dropout=0.0,
            mask="span",
            span_tokens=6,
            n_quantizers_used=2,
            input_norm="rms",
        ),
        data=Data(buckets=2),
        optim=Optim(
            lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01, clip_norm=1.0, warmup=0.1
        ),
        train=Train(steps=400, batch_size=16, log_every=20, checkpoint_every=200),
        eval=Eval(every=0),
    )
