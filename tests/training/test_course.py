from __future__ import annotations

from sslcli.options.training import RegularizeOptions, TrainOptions
from sslcli.training.course import plan_course


def test_batches_that_are_not_full_are_left_out():
    course = plan_course(TrainOptions(epochs=3), samples=100, batch_size=32)
    assert (course.steps, course.epochs, course.steps_per_epoch) == (9, 3, 3)


def test_a_data_set_smaller_than_a_batch_is_one_batch():
    assert plan_course(TrainOptions(epochs=2), samples=5, batch_size=32).steps == 2


def test_places_of_two_phases():
    options = RegularizeOptions(epochs=2, finetune_epochs=1, lr=0.1, finetune_lr=0.01)
    course = plan_course(options, samples=64, batch_size=32)
    places = [course.place(step) for step in range(course.steps)]
    assert [place.phase.name for place in places] == ["sparse"] * 4 + ["finetune"] * 2
    assert [place.epoch for place in places] == [0, 0, 1, 1, 2, 2]
    assert [place.batch for place in places] == [0, 1] * 3
    assert [place.first for place in places] == [True, False, False, False, True, False]
    assert [place.ends_epoch for place in places] == [False, True] * 3
    assert [place.phase_epoch for place in places] == [0, 0.5, 1, 1.5, 0, 0.5]
    assert (places[0].phase.lr, places[4].phase.lr) == (0.1, 0.01)


def test_a_phase_that_is_cut_ends_its_epoch():
    course = plan_course(RegularizeOptions(epochs=5, max_steps=3, finetune_epochs=1), 64, 32)
    assert [course.place(step).ends_epoch for step in range(5)] == [False, True, True, False, True]
    assert [course.place(step).epoch for step in range(5)] == [0, 0, 1, 2, 2]
    assert course.epochs == 3


def test_the_limit_of_steps_is_of_each_phase():
    course = plan_course(RegularizeOptions(epochs=1, max_steps=3, finetune_epochs=5), 64, 32)
    assert [(phase.name, phase.steps) for phase in course.phases] == [("sparse", 2), ("finetune", 3)]
