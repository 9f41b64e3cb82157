"""Options of ``train`` and ``regularize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sslcli.errors import UsageError
from sslcli.options.common import Options, Positive, task_field
from sslcli.options.entries import named_list

StructureName = Literal["filter", "channel", "shape", "filter2d", "depth", "head", "hidden"]
TargetName = Literal["macs", "params", "latency"]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]


# Options that the result of a training does not depend on.
NEUTRAL = frozenset({"resume", "save_every_s", "save_every_steps", "tensorboard"})


class TrainOptions(Options):
    """How a model is trained."""

    epochs: Positive = Field(10, description="Passes over the training data.")
    max_steps: Positive | None = Field(
        None,
        description="Steps after which training ends, and the fine-tuning after it too; "
        "default: after their epochs.",
    )
    lr: PositiveFloat = Field(0.01, description="Learning rate at its highest, per step.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimiser.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of SGD.")
    nesterov: bool = Field(False, description="Nesterov's form of momentum.")
    weight_decay: NonNegative = Field(0.0, description="Weight decay on weights of two axes and more.")
    schedule: Literal["constant", "step", "cosine", "onecycle"] = Field(
        "cosine", description="Course of the learning rate."
    )
    milestones: tuple[PositiveFloat, ...] = Field(
        (), description="Epochs at which schedule step multiplies by gamma; default: 1/2 and 3/4 of the run."
    )
    gamma: PositiveFloat = Field(0.1, description="Factor of the learning rate at each milestone.")
    warmup: NonNegative = Field(0.0, description="Epochs of linear rise to the learning rate.")
    clip_norm: PositiveFloat | None = Field(
        None, description="Clip the gradient to this l2 norm; default: not at all."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Label smoothing.")
    task: str | None = task_field()
    teacher: str | None = Field(
        None,
        description="Saved model whose outputs are distilled into this one, of --arch if it holds weights "
        "alone; in a recipe also the id of an earlier step, or model for the recipe's own; default: none.",
    )
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Share of the teacher in the loss; the labels have the rest."
    )
    temperature: Annotated[float, Field(ge=0.05, le=100)] = Field(
        2.0, description="Temperature of the teacher's probabilities, 0.05 to 100."
    )
    amp: Literal["off", "auto", "bf16", "fp16"] = Field(
        "off",
        description="Mixed precision; auto: what the device has (on a CPU bf16 if it has AVX-512 BF16 or "
        "AMX, else off).",
    )
    freeze_zeros: bool | None = Field(
        None,
        description="Hold zero groups at zero from the start; default: train does if the input's record "
        "names any, regularize does not (its fine-tuning always does).",
    )
    recalibrate: bool = Field(
        False, description="Estimate BatchNorm statistics anew on training data at the end."
    )
    keep: Literal["best", "last"] = Field(
        "best", description="Which epoch's weights are kept: the best on the validation split, or the last."
    )
    resume: Literal["auto", "never", "must"] = Field(
        "auto",
        description="Continue a run that was stopped: if there is one, never, or fail if there is none.",
    )
    save_every_s: NonNegative = Field(60.0, description="Seconds between saves of the run's state.")
    save_every_steps: Positive | None = Field(
        None, description="Steps between saves of the run's state; default: only by the clock."
    )
    channels_last: bool = Field(
        False, description="Compute convolutions in channels-last layout, often faster."
    )
    tensorboard: str | None = Field(
        None, description="Folder that the course is written to for TensorBoard; default: none."
    )
    deterministic: bool = Field(False, description="Only deterministic algorithms on CUDA too; slower.")

    @field_validator("amp", mode="before")
    @classmethod
    def _amp_from_bool(cls, value: object) -> object:
        """YAML reads ``off`` as false; true stands for auto."""
        if isinstance(value, bool):
            return "auto" if value else "off"
        return value

    @model_validator(mode="after")
    def _check_nesterov(self) -> TrainOptions:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("'nesterov' needs the optimizer sgd with momentum above 0")
        return self

    @model_validator(mode="after")
    def _check_milestones(self) -> TrainOptions:
        if self.schedule == "step" and list(self.milestones) != sorted(self.milestones):
            raise ValueError("'milestones' should increase")
        return self


class StructureOptions(Options):
    """One structure, its strength and the layers it holds for."""

    name: StructureName = Field(description="filter, channel, shape, filter2d, depth, head or hidden.")
    strength: NonNegative = Field(description="Factor of the penalty.")
    match: str = Field("*", description="Glob on the layers' names.", min_length=1)


class RegularizeOptions(TrainOptions):
    """How a model is trained until groups are exactly zero."""

    structures: tuple[StructureOptions, ...] = Field(
        (),
        description="Structure and strength, NAME=STRENGTH[@GLOB]; repeats; of several that match, the last "
        "holds. The loss grows by strength x the sum over groups of norm x square root of size "
        "(--no-size-weights: of norm). With a target a strength is a share and may be left out: twice as "
        "much, twice as ready to go. Default: none, with a target filter.",
    )
    solver: Literal["prox", "subgradient"] = Field(
        "prox", description="prox: exact zeros by block soft-thresholding; subgradient: as the paper."
    )
    size_weights: bool = Field(True, description="Weigh groups by the square root of their size.")
    element_threshold: NonNegative = Field(
        1e-4, description="Solver subgradient: elements below this are set to 0 after each step."
    )
    strength_schedule: Literal["constant", "ramp", "staged"] = Field(
        "constant", description="Course of the strengths."
    )
    strength_warmup: NonNegative = Field(
        1.0, description="Schedule ramp: epochs over which strengths rise from 0."
    )
    strength_milestones: tuple[PositiveFloat, ...] = Field(
        (), description="Schedule staged: epochs at which the next factor holds; default: none."
    )
    strength_factors: tuple[NonNegative, ...] = Field(
        (1.0,), description="Schedule staged: factors of the strengths, one more than milestones."
    )
    target: dict[TargetName, Fraction] = Field(
        default_factory=dict,
        description="What may be left, as fractions of the original: macs, params or latency (one sample, "
        "one thread, measured here), such as macs=0.5; repeats; finds the strengths. Where shape or filter2d "
        "may go, macs are those of live rows x live columns. A latency is measured once more at the end, and "
        "may then be 3 % above, by which measurements of one model differ. Default: no target.",
    )
    max_drop: NonNegative | None = Field(
        None,
        description="Points of the metric that may be lost; a point is 0.01 of accuracy; default: no limit.",
    )
    sensitivity_start: bool = Field(
        False,
        description="With a target: before the run, measure the loss without as many groups of each layer as "
        "a cut alike of all would take, and weigh the layers' groups by it. It did harm where it was tried.",
    )
    replay: str | None = Field(
        None,
        description="OUT.metrics.jsonl of an earlier run with a target, whose strengths and choice of groups "
        "are applied as they were, without measuring or choosing: same model, options, data and seed give "
        "the same weights, bit for bit. A target latency is not judged. Default: none.",
    )
    finetune_epochs: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Epochs after these without penalty, zero groups frozen; 0 with a target: half as many.",
    )
    finetune_lr: PositiveFloat | None = Field(
        None, description="Learning rate of the fine-tuning; default: the same."
    )
    depth_unit: Literal["block", "conv"] = Field(
        "block", description="What a depth group is: a residual branch, or each convolution as in the paper."
    )
    keep: Literal["best", "last"] = Field(
        "last",
        description="Which epoch's weights are kept; best looks at the fine-tuning alone, if any; "
        "with a target always best.",
    )

    @model_validator(mode="before")
    @classmethod
    def _structures_from_short_forms(cls, values: object) -> object:
        if not isinstance(values, Mapping) or "structures" not in values:
            return values
        entries = named_list(values["structures"])
        for entry in entries if isinstance(entries, list | tuple) else ():
            if isinstance(entry, dict) and "name" in entry and "strength" not in entry:
                if not values.get("target"):
                    raise ValueError(
                        f"structure {entry['name']} has no strength, which only a target finds; give it, "
                        f"such as {entry['name']}=0.005, or a target"
                    )
                entry["strength"] = 1.0
        return {**values, "structures": entries}

    @model_validator(mode="after")
    def _check_stages(self) -> RegularizeOptions:
        if self.strength_schedule == "staged":
            if len(self.strength_factors) != len(self.strength_milestones) + 1:
                raise ValueError(
                    "'strength_factors' should have one value more than 'strength_milestones', "
                    "where 'strength_schedule' is staged"
                )
            if list(self.strength_milestones) != sorted(self.strength_milestones):
                raise ValueError("'strength_milestones' should increase")
        return self


def completed(options: RegularizeOptions, structures: object = None) -> RegularizeOptions:
    """The options with the structures given, and with what a target needs where nothing else was said.

    Raises:
        UsageError: they contradict each other, or name no structure.
    """
    changes: dict[str, object] = {} if structures is None else {"structures": structures}
    if options.target:
        if "keep" in options.model_fields_set and options.keep == "last":
            hint = "leave it out; with a target the best epoch of the fine-tuning is kept"
            raise UsageError("--keep last does not go with a target", hint, culprit="last")
        changes["keep"] = "best"  # of the fine-tuning, all of whose epochs meet the target
        if not options.finetune_epochs:
            changes["finetune_epochs"] = max(1, options.epochs // 2)
        if not options.structures and structures is None:
            changes["structures"] = {"filter": 1.0}
    elif options.max_drop is not None:
        raise UsageError("--max-drop without a target limits nothing", "give --target macs=0.5 too")
    elif options.sensitivity_start:
        raise UsageError("--sensitivity-start without a target weighs nothing", "give --target macs=0.5 too")
    elif options.replay is not None:
        raise UsageError("--replay repeats a run with a target", "give the same --target as then too")
    options = RegularizeOptions.model_validate({**options.model_dump(), **changes})
    if not options.structures:
        raise UsageError(
            "no structure to regularize is given", "such as --structure filter=0.005, or --target macs=0.5"
        )
    if options.target and not any(entry.strength for entry in options.structures):
        raise nothing_may_go(options)
    return options


def nothing_may_go(options: RegularizeOptions) -> UsageError:
    """The error of a target whose structures all have the strength 0."""
    named = ", ".join(f"{name}={fraction:g}" for name, fraction in options.target.items())
    return UsageError(
        f"the target {named} cannot be met, since no --structure lets groups go (all strengths are 0)",
        "give what may go a strength above 0, such as --structure filter=1",
    )
