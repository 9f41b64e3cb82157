import textwrap

import pytest

from sslcli.errors import RecipeError, UsageError
from sslcli.recipe import load_recipe, recipe_problems

GOOD = """\
version: 1
seed: 3
model: {arch: lenet, weights: null}
data: {name: mnist-5k, batch_size: 32}
steps:
  - {id: baseline, uses: train, with: {epochs: 2, lr: 0.1}}
  - id: sparse
    uses: regularize
    with:
      structures:
        filter: 5.0e-3
        shape: {conv2: 1.0e-2}
      epochs: 4
  - {id: control, uses: train, needs: baseline}
"""

ADD = "add it; `sslcli recipe init` writes a recipe to begin with"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "r.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write


def problems(path):
    recipe, found = recipe_problems(path)
    assert recipe is None
    return [str(error).removeprefix(f"{path}:") for error in found]


def test_a_good_recipe(write):
    recipe = load_recipe(write(GOOD))
    assert recipe.source == "arch:lenet"
    assert [(step.id, step.uses, step.needs) for step in recipe.steps] == [
        ("baseline", "train", ()),
        ("sparse", "regularize", ("baseline",)),
        ("control", "train", ("baseline",)),
    ]
    first, sparse, _ = (step.settings for step in recipe.steps)
    assert (first.step.epochs, first.step.lr, first.run.seed) == (2, 0.1, 3)
    assert (first.data.data, first.data.batch_size) == ("mnist-5k", 32)
    assert [(item.name, item.strength, item.match) for item in sparse.step.structures] == [
        ("filter", 0.005, "*"),
        ("shape", 0.01, "conv2"),
    ]


def test_weights_are_the_source(write):
    recipe = load_recipe(write(GOOD.replace("weights: null", "weights: w.pth")))
    assert (recipe.source, recipe.model.arch) == ("w.pth", "lenet")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 3", "sead: 3", "2: unknown key 'sead'; did you mean 'seed'?"),
        ("version: 1", "version: 2", "1: 'version' should be 1, not 2; write 1"),
        ("version: 1\n", "", f"1: the key 'version' is missing; {ADD}"),
        ("{arch: lenet,", "{arhc: lenet,", "3: unknown key 'arhc'; did you mean 'arch'?"),
        ("{arch: lenet,", "{", "3: the model has neither 'arch' nor 'weights'; give one of them"),
        ("batch_size: 32", "batch_size: 0", "4: 'data.batch_size' should be greater than 0, not 0"),
        ("arch: lenet", "arch: lenett", "3: there is no architecture 'lenett'; did you mean 'lenet'?"),
        ("name: mnist-5k", "name: mnist5k", "4: there is no data set 'mnist5k'; did you mean 'mnist-5k'?"),
        ("batch_size: 32", "batch_siez: 2", "4: unknown key 'batch_siez'; did you mean 'batch_size'?"),
        (
            "epochs: 2,",
            "epohcs: 2,",
            "6: unknown key 'epohcs' in step 'baseline' (train); did you mean 'epochs'?",
        ),
        (
            "epochs: 2,",
            "epochs: two,",
            "6: 'epochs' should be a whole number, not 'two' in step 'baseline' (train)",
        ),
        (
            "epochs: 2,",
            "epochs: true,",
            "6: 'epochs' should be a number, not true in step 'baseline' (train)",
        ),
        (
            "epochs: 2,",
            "epochs: 2.5,",
            "6: 'epochs' should be a whole number, not 2.5 in step 'baseline' (train)",
        ),
        ("lr: 0.1", "lr: -1", "6: 'lr' should be greater than 0, not -1 in step 'baseline' (train)"),
        (
            "uses: train, with",
            "uses: trian, with",
            "6: 'steps.uses' should be 'train', 'regularize', 'prune', 'export', 'bench', 'inspect' or "
            "'evaluate', not 'trian'; did you mean 'train'?",
        ),
        ("    uses: regularize\n", "", f"7: the key 'steps.uses' is missing; {ADD}"),
        (
            "        filter: 5.0e-3",
            "        filtr: 5.0e-3",
            "11: 'structures.name' should be 'filter', 'channel', 'shape', 'filter2d', 'depth', 'head' or "
            "'hidden', not 'filtr' in step 'sparse' (regularize); did you mean 'filter'?",
        ),
        (
            "      epochs: 4",
            "      epoch: 4",
            "13: unknown key 'epoch' in step 'sparse' (regularize); did you mean 'epochs'?",
        ),
        (
            "needs: baseline",
            "needs: basline",
            "14: step 'control' needs 'basline', which is no step; did you mean 'baseline'?",
        ),
        (
            "needs: baseline",
            "needs: control",
            "14: step 'control' needs 'control', which is not before it; move it up",
        ),
        (
            "      epochs: 4",
            "      teacher: basline",
            "13: 'teacher' names 'basline', neither an earlier step nor a file, in step 'sparse' "
            "(regularize); did you mean 'baseline'?",
        ),
        ("id: control", "id: sparse", "14: two steps are called 'sparse'; rename one"),
        ("id: control", "id: model", "14: a step cannot be called 'model'; that is a key of the recipe"),
        ("id: control", "id: ../x", None),
        (
            "      epochs: 4",
            "      epochs: 4\n      epochs: 5",
            "14: the key 'epochs' is given twice (first on line 13); keep one",
        ),
        (
            "      epochs: 4",
            "      target: {macs: 0.5}\n      keep: last",
            "14: --keep last does not go with a target in step 'sparse' (regularize); leave it out; with a "
            "target the best epoch of the fine-tuning is kept",
        ),
        (
            "      epochs: 4",
            "      max_drop: 0.5",
            "9: --max-drop without a target limits nothing in step 'sparse' (regularize); give --target "
            "macs=0.5 too",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_nearest_right_word(write, old, new, message):
    found = problems(write(GOOD.replace(old, new)))
    assert len(found) == 1
    if message is not None:
        assert found[0] == message
    else:
        assert found[0].startswith("14: ")


def test_all_problems_are_listed_in_the_order_of_the_lines(write):
    found = problems(write(GOOD.replace("epochs: 2,", "epohcs: 2,").replace("epochs: 4", "epochs: four")))
    assert [text.split(":")[0] for text in found] == ["6", "13"]


def test_the_first_problem_is_raised(write):
    with pytest.raises(RecipeError, match=r"r.yaml:6: unknown key 'epohcs'"):
        load_recipe(write(GOOD.replace("epochs: 2,", "epohcs: 2,")))


def test_overrides_reach_every_value(write):
    recipe = load_recipe(
        write(GOOD),
        [
            "seed=9",
            "data.batch_size=8",
            "model.arch=mlp",
            "steps.baseline.epochs=5",
            "sparse.lr=0.5",
            "sparse.structures.filter=0.25",
            "control.needs=sparse",
            "control.with.epochs=7",
        ],
    )
    first, sparse, control = recipe.steps
    assert recipe.source == "arch:mlp"
    assert (first.settings.run.seed, first.settings.data.batch_size, first.settings.step.epochs) == (9, 8, 5)
    assert (sparse.settings.step.lr, sparse.settings.step.structures[0].strength) == (0.5, 0.25)
    assert (control.needs, control.settings.step.epochs) == (("sparse",), 7)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "--set 'seed' is not KEY=VALUE"),
        ("sparce.epochs=3", "--set sparce.epochs=3: no step is called 'sparce'; did you mean 'sparse'?"),
        ("sparse=3", "--set sparse=3: say which option of step 'sparse'"),
        (
            "sparse.epohcs=3",
            "--set sparse.epohcs: unknown key 'epohcs' in step 'sparse' (regularize); did you mean 'epochs'?",
        ),
        ("sparse.epochs=x", "--set sparse.epochs: 'epochs' should be a whole number, not 'x'"),
        ("seed.x=3", "--set seed.x=3: 'seed' has no keys of its own"),
        ("seed=[1", "is not YAML"),
    ],
)
def test_a_wrong_override_is_a_usage_error(write, setting, message):
    with pytest.raises(UsageError) as caught:
        load_recipe(write(GOOD), [setting])
    assert message in str(caught.value)


def test_a_step_after_one_without_a_model_says_what_to_add(write):
    text = GOOD + "  - {id: seen, uses: evaluate}\n  - {id: more, uses: train}\n"
    assert problems(write(text)) == [
        "16: step 'more' comes after 'seen' (evaluate), which makes no model; "
        "add 'needs: STEP' with a step that makes one to 'more'"
    ]


def test_values_may_name_earlier_steps(write):
    text = GOOD + "  - {id: taught, uses: train, needs: sparse, with: {teacher: baseline}}\n"
    assert load_recipe(write(text)).steps[-1].needs == ("sparse", "baseline")


def test_the_recipe_s_own_model_may_teach(write):
    text = GOOD + "  - {id: taught, uses: train, needs: sparse, with: {teacher: model}}\n"
    taught = load_recipe(write(text.replace("weights: null", "weights: w.pth"))).steps[-1]
    assert (taught.needs, taught.settings.step.teacher) == (("sparse",), "w.pth")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "needs: sparse, with: {teacher: look}",
            "'teacher' names 'look' (inspect), which makes no model, in step 'last' (train); name a "
            "step that makes one",
        ),
        (
            "needs: sparse, with: {teacher: onnx}",
            "'teacher' names 'onnx' (export), which makes no model that torch can run, in step 'last' "
            "(train); name a step that makes one",
        ),
        (
            "needs: sparse, with: {arch: mlp}",
            "'arch' is about the recipe's own model, and step 'last' works on what 'sparse' makes, in step "
            "'last' (train); leave it out",
        ),
        (
            "needs: sparse, with: {data: mnost}",
            "there is no data set 'mnost' in step 'last' (train); did you mean 'mnist'?",
        ),
        (
            "needs: sparse, with: {teacher: 'arch:mlp'}",
            "the teacher has nothing to teach: arch:mlp is a fresh network in step 'last' (train); name a "
            "saved model",
        ),
        (
            "needs: sparse, with: {temperature: 3.0}",
            "--temperature without a teacher does nothing in step 'last' (train); give --teacher too, "
            "or leave it out",
        ),
    ],
)
def test_what_a_later_step_cannot_do_is_told_before_the_first_runs(write, step, message):
    more = "  - {id: look, uses: inspect}\n  - {id: onnx, uses: export, needs: sparse}\n"
    assert problems(write(GOOD + more + f"  - {{id: last, uses: train, {step}}}\n")) == [f"17: {message}"]


def test_a_model_without_weights_has_nothing_to_teach(write):
    text = GOOD + "  - {id: taught, uses: train, needs: sparse, with: {teacher: model}}\n"
    assert problems(write(text)) == [
        "15: 'teacher' names the recipe's model, which has no weights and so nothing to teach, in step "
        "'taught' (train); name the step that trains it"
    ]
