"""The training configuration: typed, strict, written once to every checkpoint and MLflow run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from anysr import ModelConfig, list_pretrained
from pipeline.errors import UserError
from pipeline.evaluation.protocols import protocol_for
from pipeline.evaluation.scales import Scale
from pipeline.storage.places import S3Uri, parse_place, path_here
from pipeline.tracking.uri import stripped

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def _place(value: Any) -> Path | S3Uri:
    if not isinstance(value, str | Path | S3Uri):
        raise ValueError(f"must be a path, file:/path or s3://bucket/prefix, got {value!r}")
    try:
        return parse_place(value)
    except UserError as error:
        raise ValueError(str(error)) from None


def _path_here(value: Any) -> Path:
    try:
        return path_here(_place(value))
    except UserError as error:
        raise ValueError(str(error)) from None


_AS_TEXT = (PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"}))
AnyPlace = Annotated[Path | S3Uri, PlainValidator(_place), *_AS_TEXT]
PathHere = Annotated[Path, PlainValidator(_path_here), *_AS_TEXT]


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class DegradationConfig(Section):
    """What may befall a crop before it is shrunk, for networks that are to enlarge real photos.

    Each fault strikes by its own probability, in this order; the target stays clean.
    """

    blur: Fraction = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: Range = (0.3, 1.5)
    """Its standard deviation in HR pixels, drawn evenly."""
    noise: Fraction = 0.0
    """Probability of Gaussian noise, different in each channel."""
    noise_sigma: Range = (1.0, 12.0)
    """Its standard deviation in grey levels (of 255), drawn evenly."""
    jpeg: Fraction = 0.0
    """Probability of a JPEG compression."""
    jpeg_quality: tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]] = (50, 95)
    """Its quality, drawn evenly."""

    @model_validator(mode="after")
    def _ordered(self) -> DegradationConfig:
        for name in ("blur_sigma", "noise_sigma", "jpeg_quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [lowest, highest], got {[low, high]}")
            fault = name.partition("_")[0]
            if not getattr(self, fault) and [low, high] != list(type(self).model_fields[name].default):
                raise ValueError(f"{name} {[low, high]} has no effect where {fault} is 0; set {fault}, or leave it out")
        return self

    @property
    def is_on(self) -> bool:
        """Whether anything can happen at all."""
        return bool(self.blur or self.noise or self.jpeg)


# Keys of ``data`` that belong to the machine: no two runs differ by them.
OF_THE_NODE = ("cache", "cache_gb", "loader_processes")


class DataConfig(Section):
    """Photos, and how training samples are cut from them."""

    train: AnyPlace | None = None
    """Folder of HR photos or of a data set with them in HR, or s3://bucket/prefix; null is the photos in the box."""
    validation: AnyPlace | None = None
    """Folder of HR photos never trained on, or s3://bucket/prefix; null is the photos in the box."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a photo that cannot be used does: end the run, or be listed and left out."""
    max_megapixels: float = Field(100, gt=0)
    """Larger images are refused before they are decoded."""
    lr_crop_px: int = Field(48, ge=4)
    """Side of the LR crop; the HR crop is this times the scale."""
    queries_per_crop: Count = 2304
    """HR pixels of each crop that the loss is taken on."""
    degradation: DegradationConfig = DegradationConfig()
    """Random faults of the LR image; none by default."""
    cache: PathHere | None = None
    """Where decoded photos and copies from S3 are kept; null is $ANYSR_CACHE, else the user's cache folder."""
    cache_gb: float | None = Field(None, gt=0)
    """Most that copies from S3 may take of each node's disk; null is $ANYSR_CACHE_GB, else 100."""
    loader_processes: int = Field(0, ge=0)
    """Processes per worker that prepare batches ahead; 0 prepares them in line."""

    def resolved(self) -> DataConfig:
        """With absolute paths: workers run in folders of their own."""
        paths = {name: getattr(self, name) for name in ("train", "validation", "cache")}
        local = {name: path.expanduser().resolve() for name, path in paths.items() if isinstance(path, Path)}
        return self.model_copy(update=local)


class SamplingConfig(Section):
    """Which scale groups a step trains, and which of the nested networks on them."""

    groups_per_step: Literal["one", "all"] = "one"
    """A step's batch is of one group, as AnySR's paper has it, or divided evenly among all: the same crops in the mean,
    but no step pulls the shared weights to one width."""
    group_weights: tuple[Annotated[float, Field(gt=0)], ...] | Literal["cost"] | None = None
    """How often each group is drawn, relative to the others; null is equally often, "cost" inversely to the
    multiply-adds of its step, so that each group is given the same compute."""
    widths: Literal["one", "pair", "sandwich"] = "one"
    """Networks trained on each batch, their gradients summed: the group's own subnet; with the full network; or with
    the full and the smallest (universally slimmable networks, 1903.05134)."""
    full_width_probability: Fraction | tuple[Fraction, ...] = 0.0
    """How often a step of widths "one" trains the full network instead of the group's own subnet, in all groups or in
    each; AnySR's paper has 0.6 in the first group, [0.6, 0, 0, 0]."""
    random_width_probability: Fraction = 0.0
    """How often it trains a network drawn evenly from all instead, so that each is usable at each scale."""
    lowest_scale_probability: Fraction = 0.0
    """How often a step of the first group has exactly its lowest scale: at ×1 the answer is the input, which evenly
    drawn scales hardly teach."""

    asymmetric_probability: Fraction = 0.0
    """How often the two axes have factors of their own: the larger drawn from the group, the other from the lowest
    scale up to it."""

    @model_validator(mode="after")
    def _used(self) -> SamplingConfig:
        if self.groups_per_step == "all" and self.group_weights is not None:
            raise ValueError(
                'group_weights has no effect on groups_per_step "all", which divides each batch evenly; leave one out'
            )
        for name in ("full_width_probability", "random_width_probability"):
            drawn = getattr(self, name)
            if self.widths != "one" and any(drawn if isinstance(drawn, tuple) else (drawn,)):
                raise ValueError(
                    f"{name} {drawn} has no effect on widths {self.widths!r}, which train the same networks in each "
                    'step; set it to 0, or widths to "one"'
                )
        return self


_SCHEDULES_OF = {
    "final_fraction": ("cosine", "trapezoid"),
    "cooldown": ("trapezoid",),
    "milestones": ("multistep",),
    "gamma": ("multistep",),
}


class TrainConfig(Section):
    """Optimisation."""

    steps: Count = 1000
    """Updates of the weights in the whole run."""
    batch_size: Count = 16
    """Crops per step, over all workers and accumulation parts."""
    accumulate: Count = 1
    """Parts that each worker's share of the batch is split into."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """adamw takes the weight decay off the weights themselves, adam adds it to their gradients."""
    learning_rate: float = Field(1e-4, gt=0)
    """The highest of the run; the schedule multiplies it."""
    weight_decay: float = Field(0.0, ge=0)
    """Coefficient of the weight decay; 0 is none."""
    warmup_steps: int = Field(0, ge=0)
    """First steps of the run, over which the learning rate rises linearly to its full value."""
    schedule: Literal["constant", "cosine", "multistep", "trapezoid"] = "cosine"
    """Of the learning rate; trapezoid is constant, then falls linearly. Such a run can be prolonged with a larger
    ``steps`` and ``run.allow_changes`` as if it had been that long from the start, up to where it falls."""
    final_fraction: Fraction = 0.01
    """What the cosine and trapezoid schedules end on, as a fraction of the learning rate."""
    cooldown: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Last share of the steps, in which the trapezoid falls."""
    milestones: tuple[Fraction, ...] = (0.4, 0.8)
    """Where the multi-step schedule multiplies by ``gamma``, as fractions of the run."""
    gamma: float = Field(0.5, gt=0, le=1)
    """What the multi-step schedule multiplies the learning rate by at each milestone."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest gradient norm; null does not clip."""
    ema_decay: float | None = Field(0.999, ge=0, lt=1)
    """Decay of the weights' moving average, which is what is evaluated and shipped; null keeps none. It rises to
    this: the n-th update's decay is at most (1 + n) / (10 + n)."""
    distillation: Fraction = 0.0
    """How much of a narrower network's target is the full network's answer to the same batch (detached), the rest
    being the photo; needs sampling.widths "pair" or "sandwich"."""
    init_from: AnyPlace | None = None
    """Model file (a path or s3://bucket/key), released checkpoint or network in the box whose weights the run starts
    with, of the same encoder and decoder: one that makes something else of them (decoder.skip, encoder.residual_scale,
    interweave.*) is refused. A plain network starts an any-resource one."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """bfloat16 runs forward and backward under autocast; weights stay float32. auto is bfloat16 if all
    workers' devices multiply it faster when the run starts; it goes on so on any other machine."""
    cuda_graphs: bool = True
    """Record the network's kernels once and replay them at every step, in a run without Ray on a GPU: a small network
    otherwise waits for Python there."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the first weights and of every batch."""
    log_every: Count = 10
    """Steps from one logging of loss, learning rate and speed to the next."""
    checkpoint_every: Count = 500
    """Steps from one checkpoint to the next; the last step and a requested stop save one as well."""

    @field_validator("init_from", mode="before")
    @classmethod
    def _no_version(cls, value: Any) -> Any:
        if str(value).startswith("models:"):
            raise ValueError(
                f"{value} is a version of a registry, which workers do not ask; write its model file first, with "
                "jobs/register.py export, and give that file"
            )
        return value

    @model_validator(mode="after")
    def _used(self) -> TrainConfig:
        for name, schedules in _SCHEDULES_OF.items():
            value = getattr(self, name)
            if self.schedule not in schedules and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} {value} has no effect on the schedule {self.schedule!r}; leave it out, or set schedule to "
                    f"{' or '.join(schedules)}"
                )
        return self

    def resolved(self) -> TrainConfig:
        """With absolute paths: workers run in folders of their own."""
        in_the_box = str(self.init_from) in list_pretrained() and not Path(str(self.init_from)).exists()
        if not isinstance(self.init_from, Path) or in_the_box:
            return self
        return self.model_copy(update={"init_from": self.init_from.expanduser().resolve()})


class ValidationConfig(Section):
    """Scores during and after training: own subnet, full network and bicubic at each scale."""

    every: Count = 500
    """Steps from one validation to the next; the last step is validated as well."""
    scales: tuple[Annotated[float, Field(ge=1)], ...] = Field((1.5, 2.0, 2.5, 3.0, 4.0), min_length=1)
    """Factors of enlargement to score; a network of one factor is scored at that one."""
    crop_px: int | None = Field(None, ge=32)
    """Score the photos' central squares of this side only; null scores whole photos."""
    suite: str = Field("photos", pattern=r"^[\w.-]+$")
    """Name of the validation photos in metric names."""
    protocol: Literal["liif", "liif-div2k", "anysr", "arbsr", "basicsr"] = "liif"
    """How they are scored, as in jobs/evaluate.py."""

    @field_validator("scales")
    @classmethod
    def _told_apart(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        names = [f"x{scale:g}" for scale in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands twice; metrics are named by the scale, so give each once")
        return value


class RunConfig(Section):
    """Name and place of the run."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)
    """A name that exists is resumed; null makes a new one."""
    storage: str = "runs"
    """Folder for checkpoints and results that every node reaches, or s3://bucket/prefix."""
    allow_changes: bool = False
    """Resume although configuration or photos differ from what the run started with; each change is printed."""


class RayConfig(Section):
    """Ray Train workers."""

    num_workers: Count | tuple[Count, Count] = 1
    """[least, most] goes on with fewer workers while nodes are lost, and with more when they are back."""
    cpus_per_worker: Count = 1
    """CPU cores of each worker."""
    use_gpu: bool = False
    """Give each worker a GPU of its own."""
    max_failures: int = Field(3, ge=-1)
    """Restarts from the latest checkpoint after a worker died; -1 is without limit."""
    keep_checkpoints: Count = 2
    """How many of the latest checkpoints stay; older ones are deleted."""
    start_timeout_s: float = Field(180, gt=0)
    """How long to wait for the workers' resources before giving up, or before going on with fewer."""
    resize_every_s: float = Field(60, gt=0)
    """How often to look for resources for more workers."""

    @field_validator("num_workers")
    @classmethod
    def _ordered(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError(f"ray.num_workers is [least, most], got {list(value)}")
        return value

    @property
    def fewest_workers(self) -> int:
        """Training waits for so many."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Training uses no more."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


LOCK_SUFFIX = ".promoting"  # of the registered model that is the lock of another one's promotion


class TrackingConfig(Section):
    """Where metrics, artifacts and the finished network go."""

    backend: Literal["mlflow", "jsonl"] = "mlflow"
    """jsonl writes metrics.jsonl into the run's folder and needs no MLflow."""
    uri: str | None = None
    """MLflow server; null is $MLFLOW_TRACKING_URI, else mlflow.db in the working folder, or in run.storage for a job
    of a Ray cluster."""
    experiment: str = "anysr"
    """MLflow experiment that the run belongs to; one that does not exist is made."""
    registered_model: str = Field("anysr", pattern=r"""^[^/:'"]+$""")
    """Name in MLflow's registry under which the finished network becomes a version."""

    @field_validator("registered_model")
    @classmethod
    def _no_lock(cls, value: str) -> str:
        if value.endswith(LOCK_SUFFIX):
            raise ValueError(f"must not end with {LOCK_SUFFIX}, as the registry's locks do")
        return value

    @field_validator("uri")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is not None and stripped(value) != value:
            raise ValueError(
                "tracking.uri holds a password, which every record of this run would show; give it in the environment "
                "alone, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or in MLFLOW_TRACKING_URI"
            )
        return value


class TrainingConfig(Section):
    """Everything a training run depends on."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()
    run: RunConfig = RunConfig()
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        groups = self.model.subnets
        for name in ("group_weights", "full_width_probability"):
            values = getattr(self.sampling, name)
            if isinstance(values, tuple) and len(values) != len(groups):
                raise ValueError(f"sampling.{name} has {len(values)} values for {len(groups)} scale groups")
        if self.train.distillation and self.sampling.widths == "one":
            raise ValueError(
                f"train.distillation {self.train.distillation} needs the full network's answer in each step; set "
                "sampling.widths to pair or sandwich"
            )
        if self.sampling.widths != "one" and len(groups) == 1:
            raise ValueError(
                f"sampling.widths {self.sampling.widths!r} has no effect on a network of one scale group, nor has "
                "train.distillation; set it to one, or give model.subnets several groups"
            )
        if self.factor is not None and self.sampling.asymmetric_probability:
            raise ValueError(
                f"sampling.asymmetric_probability {self.sampling.asymmetric_probability} has no effect on a network "
                f"that enlarges by {self.factor} alone; set it to 0"
            )
        parts = len(groups) if self.sampling.groups_per_step == "all" else 1
        numbers = range(self.ray.fewest_workers, self.ray.most_workers + 1)
        shares = [workers * self.train.accumulate * parts for workers in numbers]
        for share in shares:
            if self.train.batch_size % share:
                among = "ray.num_workers x train.accumulate" + (" x the scale groups" if parts > 1 else "")
                raise ValueError(
                    f"train.batch_size {self.train.batch_size} does not divide among {among} = {share}; choose a "
                    f"multiple of {math.lcm(*shares)}"
                    + ("" if len(shares) == 1 else ", or fewer numbers of workers")
                    + (", or sampling.groups_per_step one" if parts > 1 else "")
                )
        if self.validation.crop_px is not None and self.validation.crop_px < self.smallest_validation_px:
            raise ValueError(
                f"validation.crop_px {self.validation.crop_px} is too little to score ×{max(self.scales):g}; "
                f"set it to at least {self.smallest_validation_px}, or lower validation.scales"
            )
        smallest = round(self.data.lr_crop_px * (self.factor or groups[0].scales[0])) ** 2
        if self.data.queries_per_crop > smallest:
            raise ValueError(
                f"data.queries_per_crop {self.data.queries_per_crop} is more than the {smallest} pixels of the "
                "smallest HR crop; lower it or raise data.lr_crop_px"
            )
        return self

    @property
    def factor(self) -> int | None:
        """The one factor of a fixed-scale network; None for any scale."""
        return self.model.fixed_factor

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales to validate at."""
        return self.validation.scales if self.factor is None else (float(self.factor),)

    @property
    def smallest_validation_px(self) -> int:
        """Side of an image of four LR pixels at every scale that the protocol's border leaves something of."""
        protocol = protocol_for(self.validation.protocol, self.validation.suite)
        borders = (2 * protocol.border(Scale(scale, scale))[0] + math.ceil(scale) + 1 for scale in self.scales)
        return max(math.ceil(4 * max(self.scales)), *borders)

    @property
    def validation_px(self) -> int:
        """Side of the smallest photo that can be validated on."""
        return self.validation.crop_px or self.smallest_validation_px

    @property
    def hr_crop_px(self) -> int:
        """Side of the largest HR crop: the smallest photo that can be trained on."""
        return round(self.data.lr_crop_px * (self.factor or self.model.subnets[-1].scales[1]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = self.model_dump(mode="json")
        return values

    def to_yaml(self) -> str:
        """The whole configuration, ready for ``--config``."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)
