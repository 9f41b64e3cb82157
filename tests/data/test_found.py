from sslcli.data.found import found_data_sets


def test_each_set_is_told_with_its_folder_or_its_remedy(tmp_path, write_mnist, monkeypatch):
    folder = write_mnist(tmp_path / "mnist")
    monkeypatch.setattr("sslcli.data.digits.importlib.util.find_spec", lambda name: None)
    rows = {name: (place, remedy) for name, place, remedy in found_data_sets(tmp_path)}
    assert list(rows) == ["mnist", "fashion-mnist", "cifar10", "mnist-5k"]
    assert rows["mnist"][0] == str(folder)
    assert [rows[name][0] for name in ("fashion-mnist", "cifar10", "mnist-5k")] == [None] * 3
    assert "sslcli[demo]" in rows["mnist-5k"][1]


def test_a_root_that_is_not_there_is_told(tmp_path):
    [(name, place, remedy)] = found_data_sets(tmp_path / "nowhere")
    assert (name, place) == ("root", None)
    assert "is not a folder" in remedy
