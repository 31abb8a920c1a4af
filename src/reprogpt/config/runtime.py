"""Section runtime: where and how the stages run."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reprogpt.config.sections import Count, CountOrZero, Section
from reprogpt.errors import ParamError

Processes = Annotated[int, Field(ge=1, le=4096)]
Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?$")]


class RuntimeConfig(Section):
    """Where and how stages run. Nothing here may change a result beyond rounding."""

    device: str
    """auto is CUDA if there is a GPU, else mps, else cpu."""
    nproc: Processes | Literal["auto"]
    """Training processes; auto is one per GPU, or one."""
    micro_batch: Count | Literal["auto"]
    """Maximum rows of block_size tokens in one forward pass; auto is found by trying."""
    compile: bool | Literal["auto"]
    """torch.compile the model."""
    workers: Processes | Literal["auto"]
    """Tokenizing processes; auto is one per core."""
    encoder: Literal["auto", "tiktoken", "gigatoken"] = "auto"
    """auto is gigatoken where it is installed and gives tiktoken's ids on a sample."""
    tokenize_executor: Literal["local", "datatrove", "slurm"] = "local"
    """Where parts are tokenized: processes of this machine (`workers`), tasks of datatrove's local
    executor, or of its Slurm executor (docs/data.md). The shards are the same."""
    tokenize_tasks: Annotated[int, Field(ge=1, le=1000)] = 16
    """Tasks of the executors datatrove and slurm."""
    slurm_partition: str | None = None
    """Partition that tokenize_executor slurm submits to."""
    slurm_time: Annotated[str, Field(pattern=r"^[0-9:-]+$")] = "04:00:00"
    """Time limit of one task of tokenize_executor slurm."""
    checkpoint_interval: Count
    """Steps between checkpoints; a kill loses at most this many."""
    launcher: Literal["torchrun", "slurm", "c10d"]
    """torchrun: the processes of this machine (the name is historical, torchrun is not used).
    slurm: those of a Slurm job. c10d: those of several machines, on each of which somebody starts
    one command (docs/training.md)."""
    nodes: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Launcher c10d: number of machines; null takes it from SKYPILOT_NUM_NODES, NNODES or
    SLURM_JOB_NUM_NODES."""
    rendezvous: Address | None = None
    """Launcher c10d: HOST:PORT at which node 0 listens, an address of the network between the
    nodes; null takes it from MASTER_ADDR and MASTER_PORT, SKYPILOT_NODE_IPS or
    SLURM_JOB_NODELIST."""
    resume: str | None
    """Continue the unfinished run with this fingerprint, although the code was edited."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """ddp replicates the model on every process; fsdp shards weights, gradients and optimizer
    state, for models that do not fit on one GPU."""
    shard_optimizer: bool = False
    """Under ddp: shard AdamW's state (ZeRO stage 1)."""
    keep_checkpoints: Count = 2
    """Most recent checkpoints of a run to keep."""
    checkpoint_store: Annotated[str, Field(min_length=1)] | None = None
    """Folder or `s3://BUCKET/FOLDER` to which checkpoints are copied while training goes on; on
    another machine the run continues from there (docs/elsewhere.md)."""
    max_restarts: CountOrZero = 3
    """Restarts of the process group after a process dies."""
    timeout: Annotated[float, Field(gt=0, le=10**6)] = 600.0
    """Seconds after which a process that the others wait for counts as hung."""
    eval_tokens: Count | Literal["auto"] = "auto"
    """Maximum tokens in one forward pass of an evaluation."""
    tracker: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = "none"
    """The experiment tracker that gets the rows of metrics/train.csv (docs/training.md)."""
    verify: Literal["sampled", "full"] = "sampled"
    """How much of each shard is compared with its checksum before training opens it."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ParamError("device", "must be auto, cpu, cuda, cuda:N or mps", "try auto")
        if self.resume is not None and not re.fullmatch("[0-9a-f]{16}", self.resume):
            raise ParamError("resume", "must be 16 hex digits, the name of a folder in runs/",
                             "copy one from there")
        if "://" in (store := self.checkpoint_store or "") and not re.match("s3://[^/]", store):
            raise ParamError("checkpoint_store", "must be a folder or s3://BUCKET/FOLDER",
                             "mount another kind of store as a folder")
        for key in ("nodes", "rendezvous"):
            if getattr(self, key) is not None and self.launcher != "c10d":
                raise ParamError(key, "is read by launcher c10d only",
                                 "leave it out, or set runtime.launcher to c10d")
        if self.tokenize_executor == "slurm" and not self.slurm_partition:
            raise ParamError("slurm_partition", "must be set when tokenize_executor is 'slurm'",
                             "name a partition that `sinfo` lists")
        return self
