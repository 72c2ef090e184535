"""Tests of the errors that users see."""

from jaxrobust.errors import DataError, UserError, unknown_name


def test_errors_of_the_user_are_value_errors():
    assert issubclass(DataError, UserError)
    assert issubclass(UserError, ValueError)


def test_unknown_name_suggests_the_nearest_and_lists_all():
    message = unknown_name("dataset", "cifar", ["digits", "cifar10"])
    assert message == "Unknown dataset 'cifar': did you mean 'cifar10'? Valid: digits, cifar10."


def test_unknown_name_suggests_something_even_when_nothing_is_near():
    assert "did you mean" in unknown_name("dataset", "!", ["digits"])
    assert "None" in unknown_name("dataset", None, ["digits"])
