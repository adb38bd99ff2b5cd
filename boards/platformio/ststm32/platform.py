"""Stand-in for PlatformIO's ststm32 platform: bare builds only, with the Arm compiler on PATH.

It serves where PlatformIO's registry cannot be reached. platform.json and the board's manifest are written
beside it by poet_codegen.platformio.standins; the same platformio.ini works with the official platform.
"""

from platformio.public import PlatformBase


class Ststm32Platform(PlatformBase):
    """No frameworks, so that nothing is left to configure."""
