"""Jobs on Apache Beam where one machine is too small: `neurofm prepare --runner`.

Beam runs the very functions that the pool of processes runs, a job an element, so the
dataset is the same to the byte. Recordings and dataset lie in stores, or on a disk that
every worker has at the same path: `direct` uses this machine alone, on Dataflow the
workers' container holds this package (and the driver of the store, or such a disk).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from data_pipelines.pool import n_cores
from neurofm.errors import NeuroFMError

Runner = Literal["direct", "dataflow"]
Job = TypeVar("Job")

_RUNNERS = {
    # Beam's "DirectRunner" may fetch a program that runs pipelines, this one does not.
    "direct": "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner",
    "dataflow": "DataflowRunner",
}


def run_on_beam(
    work: Callable[[Job], Any],
    jobs: Sequence[Job],
    workers: int | None,
    runner: Runner,
    options: Mapping[str, Any],
) -> None:
    """Call `work` with each job, somewhere, and return when all are done.

    Args:
      work: a function at the top of a module; what it makes it writes down itself.
      jobs: what to call it with; both are sent by pickle.
      workers: processes of the direct runner; None is one a core.
      runner: where it runs.
      options: of the pipeline by their names in Beam, such as `project`, `region`,
        `temp_location`, `sdk_container_image`.

    Raises:
      NeuroFMError: apache-beam is not installed.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NeuroFMError(
            "--runner needs Apache Beam, which is not installed: pip install "
            "'neurofm[beam]', or leave --runner out to prepare on this machine"
        ) from error
    if not jobs:
        return
    given: dict[str, Any] = {"runner": _RUNNERS[runner], **options}
    workers = workers or n_cores()
    if runner == "direct" and workers > 1:
        # Processes, as in the pool: threads of one would wait for each other.
        given |= {
            "direct_num_workers": workers,
            "direct_running_mode": "multi_processing",
        }
    settings = beam.options.pipeline_options.PipelineOptions(flags=[], **given)
    with beam.Pipeline(options=settings) as pipeline:
        _ = pipeline | beam.Create(list(jobs)) | beam.Reshuffle() | beam.Map(work)
