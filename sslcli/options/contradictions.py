"""Training options that are good each alone and do not go together."""

from __future__ import annotations

from sslcli.errors import UsageError
from sslcli.options.common import Options
from sslcli.options.training import RegularizeOptions, TrainOptions, completed


def check_training(options: Options) -> None:
    """Look at the options of a step that trains; others are let pass.

    Raises:
        UsageError: they contradict each other, or one of them could do nothing.
    """
    if not isinstance(options, TrainOptions):
        return
    teacher = options.teacher
    if teacher is None:
        for name in ("teacher_weight", "temperature"):
            if name in options.model_fields_set:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{flag} without a teacher does nothing", "give --teacher too, or leave it out"
                )
    elif not teacher or teacher.startswith("arch:"):
        what = f"{teacher} is a fresh network" if teacher else "the name is empty"
        raise UsageError(f"the teacher has nothing to teach: {what}", "name a saved model", culprit=teacher)
    if isinstance(options, RegularizeOptions):
        completed(options)
