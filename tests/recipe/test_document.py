import pytest

from sslcli.errors import RecipeError
from sslcli.recipe.document import MAX_BYTES, parse_document, parse_value, read_document


def refused(text):
    with pytest.raises(RecipeError) as caught:
        parse_document(text, "r.yaml")
    return str(caught.value)


def test_every_value_knows_its_line():
    document = parse_document("a: 1\nb:\n  c: [x,\n    y]\n", "r.yaml")
    assert document.values == {"a": 1, "b": {"c": ["x", "y"]}}
    assert document.place(("a",)) == "r.yaml:1"
    assert document.place(("b", "c")) == "r.yaml:3"
    assert document.place(("b", "c", 1)) == "r.yaml:4"
    assert document.place(("b", "nothing")) == "r.yaml:2"


def test_words_are_found_below_a_path():
    document = parse_document("a: {x: one}\nb:\n  y: one\n  two: 3\n", "r.yaml")
    assert document.find(("b",), "one") == "r.yaml:3"
    assert document.find(("b",), "two") == "r.yaml:4"
    assert document.find(("a",), "two") is None


def test_scalars_are_plain():
    document = parse_document("a: 1.5e-3\nb: ~\nc: yes\nd: 2026-01-01\ne: '1'\n", "r.yaml")
    assert document.values == {"a": 0.0015, "b": None, "c": True, "d": "2026-01-01", "e": "1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3: the key 'a' is given twice (first on line 1); keep one"),
        ("a: {b: 1,\n  b: 2}\n", "r.yaml:2: the key 'b' is given twice (first on line 1); keep one"),
        ("a:\n\tb: 1\n", "r.yaml:2: a tab is used to indent; use spaces"),
        ("", "r.yaml:1: the recipe is empty; `sslcli recipe init` writes one"),
        ("- 1\n", "r.yaml:1: a recipe is a mapping of keys to values; see `sslcli recipe init`"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: a second document begins; one recipe a file"),
        (
            "a: 1\nb: !!python/name:os.system x\n",
            "r.yaml:2: the tag 'tag:yaml.org,2002:python/name:os.system' is not allowed; "
            "recipes have plain values",
        ),
        ("a: !mine 3\n", "r.yaml:1: the tag '!mine' is not allowed; recipes have plain values"),
        ("? [1, 2]\n: 3\n", "r.yaml:1: a key should be a word"),
    ],
)
def test_what_a_recipe_has_no_use_for_is_refused_with_its_line(text, message):
    assert refused(text) == message


def test_broken_yaml_names_the_line():
    assert refused("a: 1\nb: [1, 2\nc: 3\n").startswith("r.yaml:3: ")


def test_nesting_is_bounded_before_it_is_built():
    assert "nested deeper" in refused("a: " + "[" * 100_000)


def test_aliases_cannot_multiply():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "aliases repeat too much" in refused("\n".join(lines))


def test_an_alias_to_itself_ends():
    assert "aliases repeat too much" in refused("a: &a [*a]\n")


def test_a_few_aliases_are_fine():
    document = parse_document("a: &x {lr: 0.1}\nb: *x\n", "r.yaml")
    assert document.values["b"] == {"lr": 0.1}


def test_a_byte_order_mark_is_no_matter(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(tmp_path / "r.yaml").values == {"a": 1}


def test_files_that_are_no_text_are_refused_with_the_line(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"a: 1\nb: \xff\xfe\n")
    with pytest.raises(RecipeError, match=r"r.yaml:2: not UTF-8"):
        read_document(path)


def test_huge_files_are_not_read(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="at most"):
        read_document(path)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        read_document(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("1.0e-3", 0.001), ("[a, b]", ["a", "b"]), ("", None), ("x", "x")]
)
def test_values_of_overrides_are_yaml(text, value):
    assert parse_value(text) == value
