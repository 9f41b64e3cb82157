"""``regularize`` and ``run`` killed by SIGKILL, in saves and at random moments, end with the same bits."""

import random
import shutil
import time

import pytest
from forked import Trouble

REGULARIZE = (
    "regularize arch:lenet -o out.pt2 --data mnist-5k -b 16 --max-steps 12 --epochs 2 "
    "--save-every-steps 2 --no-size-weights --structure filter=0.1 --structure shape=0.1 -q"
)
RECIPE = """\
version: 1
model: {arch: lenet}
data: {name: mnist-5k, batch_size: 16}
steps:
  - {id: dense, uses: train, with: {max_steps: 6, save_every_steps: 2}}
  - id: sparse
    uses: regularize
    with: {max_steps: 6, save_every_steps: 2, size_weights: no, structures: {filter: 0.1, shape: 0.1}}
  - {id: small, uses: prune}
  - {id: polished, uses: train, with: {max_steps: 4, save_every_steps: 1}}
"""
RUN = "run r.yaml -o out -q"
STEPS = ("dense", "sparse", "small", "polished")
# Calls in a save: the file is written (cut in half), synchronised, renamed; then the folder is synchronised.
IN_A_SAVE = [
    Trouble("torch.save", 3, half=True),
    Trouble("os.replace", 6),
    pytest.param(Trouble("os.fsync", 9), marks=pytest.mark.slow),
    pytest.param(Trouble("os.fsync", 12), marks=pytest.mark.slow),
]


def models(folder):
    """The bits of every model that there is."""
    return {str(path.relative_to(folder.work)): folder.digest(path) for path in folder.work.rglob("*.pt2")}


@pytest.fixture(scope="module")
def regularized(shared):
    """What an undisturbed run makes, and its seconds."""
    start = time.monotonic()
    shared.must(REGULARIZE)
    return {"out.pt2": shared.digest("out.pt2")}, time.monotonic() - start


@pytest.fixture(scope="module")
def chained(shared):
    (shared.work / "r.yaml").write_text(RECIPE)
    start = time.monotonic()
    shared.must(RUN)
    return {f"out/{step}/model.pt2": shared.digest(f"out/{step}/model.pt2") for step in STEPS}, (
        time.monotonic() - start
    )


def killed_and_resumed(folder, command, trouble):
    """Whether the kill struck before the command was done; then the same command goes on."""
    outcome = folder.run(command, trouble)
    assert outcome.code in (-9, 0), outcome
    folder.must(command)
    assert folder.hidden() == []
    return outcome.code == -9


@pytest.mark.parametrize("trouble", IN_A_SAVE, ids=lambda trouble: f"{trouble.call}-{trouble.number}")
def test_regularize_killed_in_a_save(trouble, folder, regularized):
    assert killed_and_resumed(folder, REGULARIZE, trouble)
    assert models(folder) == regularized[0]


@pytest.mark.parametrize(
    "number", [15, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 22, 31, 38))]
)
def test_run_killed_in_a_save(number, folder, chained):
    (folder.work / "r.yaml").write_text(RECIPE)
    assert killed_and_resumed(folder, RUN, Trouble("os.fsync", number))
    assert models(folder) == chained[0]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("command", [REGULARIZE, RUN], ids=["regularize", "run"])
def test_twenty_random_moments(command, folder, regularized, chained):
    """Each moment from an empty folder: killed there, continued to the end, compared."""
    expected, seconds = regularized if command == REGULARIZE else chained
    generator, struck = random.Random(7), 0
    for _ in range(60):
        shutil.rmtree(folder.work)
        folder.work.mkdir()
        (folder.work / "r.yaml").write_text(RECIPE)
        moment = generator.uniform(0.1, 0.95) * seconds
        struck += killed_and_resumed(folder, command, Trouble(after_s=moment))
        assert models(folder) == expected, f"killed after {moment:.2f} s"
        if struck == 20:
            break
    assert struck == 20


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("command", [REGULARIZE, RUN], ids=["regularize", "run"])
def test_killed_again_and_again(command, folder, regularized, chained):
    """One run killed up to twenty times on its way."""
    expected, seconds = regularized if command == REGULARIZE else chained
    (folder.work / "r.yaml").write_text(RECIPE)
    generator = random.Random(3)
    for _ in range(20):
        if folder.run(command, Trouble(after_s=generator.uniform(0.3, 0.7) * seconds)).code == 0:
            break
    folder.must(command)
    assert models(folder) == expected
