"""E2OAL"""

from jaxrobust.recipes.e2oal import ABLATIONS, PROTOCOL, get_config

__all__ = ["ABLATIONS", "PROTOCOL", "get_config"]
