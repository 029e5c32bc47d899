"""Who started this process: a decision on environments, as launchers set them."""

import pytest

from neurofm.errors import NeuroFMError
from neurofm.parallel.detect import ALONE, Group, detect

# What srun sets in each task (`man srun`, output environment variables).
STEP = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_NODELIST": "n[01-03]",
    "SLURM_NTASKS": "11",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_PROCID": "9",
    "SLURM_NODEID": "2",
    "SLURM_LOCALID": "1",
}
# mpirun of Open MPI 4.
MPI = {
    "OMPI_COMM_WORLD_SIZE": "6",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}
SLICE = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "3"}
PODS = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
NO_CHIP = {"TPU_SKIP_MDS_QUERY": "1"}  # jax sets it where it finds none


def found(env, tpu=False, kubernetes=False) -> Group:
    return detect(env, tpu, kubernetes)


@pytest.mark.parametrize(
    ("env", "tpu", "by", "n"),
    [
        (STEP, False, "slurm", 11),
        (STEP, True, "slurm", 11),
        (MPI, False, "ompi", 6),
        (MPI | STEP | {"SLURM_STEP_NUM_TASKS": "3"}, False, "ompi", 6),
        (STEP | {"PMI_SIZE": "11"}, False, "slurm", 11),
        (SLICE, True, "gketpu", 4),
        (SLICE | NO_CHIP, True, "gketpu", 4),  # GKE sets it too
        (SLICE | {"MEGASCALE_NUM_SLICES": "3"}, True, "gketpu", 12),
        (SLICE | PODS, True, "gketpu", 4),
        ({"TPU_PROCESS_ADDRESSES": "h:1,h:2"}, True, "gketpu", 2),
        (
            {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"},
            True,
            "gketpu",
            2,
        ),
        ({}, True, "gcetpu", None),  # a TPU VM: the metadata server knows
    ],
)
def test_launchers_are_told_by_what_they_set(env, tpu, by, n):
    group = found(env, tpu)
    assert (group.by, group.num_processes) == (by, n)


@pytest.mark.parametrize(
    ("env", "tpu"),
    [
        ({}, False),
        (NO_CHIP, True),  # a workstation with libtpu installed
        (SLICE, False),  # JAX_PLATFORMS=cpu on a TPU host
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, True),  # one host of GKE
        (STEP | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, False),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, False),  # salloc's interactive shell
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, False),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            False,
        ),  # a pod that is no indexed job
        ({"SLURM_NTASKS": "many", "OMPI_COMM_WORLD_SIZE": ""}, False),
    ],
)
def test_one_process_waits_for_nobody(env, tpu):
    assert found(env, tpu) == ALONE


def test_a_batch_script_without_srun_runs_alone_and_says_so():
    script = {"SLURM_JOB_ID": "71", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    group = found(script)
    assert group.by == "alone"
    assert "4 tasks" in group.note
    assert "srun" in group.note


def test_kubernetes_is_asked_where_its_package_is_there():
    assert found(PODS, kubernetes=True) == Group("k8s")
    assert found(PODS).by == "alone"
    assert "kubernetes" in found(PODS).note
    with pytest.raises(NeuroFMError, match="--coordinator HOST:PORT"):
        found(PODS | {"JOB_COMPLETION_INDEX": "2"})


@pytest.mark.parametrize(
    "env",
    [
        {k: v for k, v in MPI.items() if not k.startswith("OMPI_MCA")},  # Open MPI 5
        {"PMI_SIZE": "6", "PMI_RANK": "0"},  # MPICH, Intel MPI
    ],
)
def test_processes_that_cannot_meet_never_train_side_by_side(env):
    with pytest.raises(NeuroFMError, match=r"started 6 processes.*--coordinator HOST"):
        found(env)


@pytest.mark.parametrize(
    ("changes", "gpus"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x11)"}, "all"),  # a task a node has them all
        ({}, None),  # nothing known: jax takes number SLURM_LOCALID
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, (1,)),  # the node has three tasks
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, (2, 3)),
        ({"CUDA_VISIBLE_DEVICES": "5"}, (0,)),  # bound by --gpus-per-task
        ({"SLURM_GPUS_ON_NODE": "6"}, (2, 3)),
        ({"SLURM_NODEID": "0", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
    ],
)
def test_the_gpus_of_a_host_are_shared_out_evenly(changes, gpus):
    assert found(STEP | changes).gpus == gpus


def test_every_gpu_of_a_host_belongs_to_one_process():
    def of(local):
        env = MPI | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
        return found(env | {"OMPI_COMM_WORLD_LOCAL_RANK": str(local)}).gpus

    assert [of(0), of(1)] == [(0, 1), (2, 3)]
