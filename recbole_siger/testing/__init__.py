"""The contract of a model, for the tests of any package: ``check_model(MyModel)``."""

from recbole_siger.testing.contract import CHECKS, check_model

__all__ = ["CHECKS", "check_model"]
