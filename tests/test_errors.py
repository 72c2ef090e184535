"""Tests of the errors that users see."""

from jaxrobust.errors import DataError, UserError, unknown_name


def test_data_error_is_shown_to_users_and_caught_as_value_error():
    assert issubclass(DataError, UserError)
    assert issubclass(DataError, ValueError)


def test_unknown_name_suggests_the_nearest_and_lists_all():
    message = unknown_name("dataset", "cifar", ["digits", "cifar10"])
    assert message == "Unknown dataset 'cifar': did you mean 'cifar10'? Valid: digits, cifar10."


def test_unknown_name_suggests_something_even_when_nothing_is_near():
    assert "did you mean" in unknown_name("dataset", "!", ["digits"])
    assert "None" in unknown_name("dataset", None, ["digits"])
