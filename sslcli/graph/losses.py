"""What a trace in eval mode cannot show of a model's training mode."""

from __future__ import annotations

import inspect
import re

from torch import nn

# Handing the mode on to a dropout or another module is no loss: the dropout's node carries it as a flag.
_HANDED_ON = re.compile(r"\btraining\s*=\s*self\.training\b|\.train\(self\.training\)")
_ATTENTION_DROPOUT = re.compile(r"\bdropout_p\s*=[^\n]*self\.training")
_RATES = ("p", "drop_prob", "drop_path", "drop_path_rate", "drop_rate")


def lost_in_eval(model: nn.Module) -> tuple[str, ...]:
    """One sentence for each kind of module that does something of its own in train mode.

    Found by reading the classes: ``self.training`` used for anything but a dropout's flag. Modules of
    torch itself keep their mode as a flag of their node, apart from the dropout inside attention and
    batch norms that average over all batches (``momentum=None``).
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        sentence = _loss_of(module)
        if sentence is not None:
            found.setdefault(sentence, name or "the model itself")
    return tuple(f"{sentence} (first at {place})" for sentence, place in found.items())


def _loss_of(module: nn.Module) -> str | None:
    kind = type(module)
    if isinstance(module, nn.MultiheadAttention) and module.dropout > 0:
        return f"the dropout of {module.dropout:g} inside MultiheadAttention is not in the eval trace"
    if isinstance(module, nn.modules.batchnorm._NormBase):
        if module.momentum is not None or not module.track_running_stats:
            return None
        return (
            f"{kind.__name__} with momentum=None would not follow its inputs when the traced graph is trained"
        )
    if kind.__module__.startswith("torch.") or _is_off(module) or not _branches_on_training(module):
        return None
    return f"{kind.__name__} does something in training that the eval trace does not show"


def _is_off(module: nn.Module) -> bool:
    """Stochastic depth and the like with a rate of zero."""
    rates = [
        getattr(module, name) for name in _RATES if isinstance(getattr(module, name, None), (int, float))
    ]
    return bool(rates) and not any(rates)


def _branches_on_training(module: nn.Module) -> bool:
    rates = [child.p for child in module.children() if isinstance(child, nn.modules.dropout._DropoutNd)]
    for base in type(module).__mro__:
        if base.__module__.startswith("torch.") or base is object:
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):
            continue
        if not any(rates):
            source = _ATTENTION_DROPOUT.sub("", source)
        if "self.training" in _HANDED_ON.sub("", source):
            return True
    return False
