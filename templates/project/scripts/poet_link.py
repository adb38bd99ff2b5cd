"""PlatformIO post script: link settings that build_flags cannot carry, as platformio.ini cannot pass them.

build_flags reach the compiler only. Builders differ, too: the official bare builder links libstdc++, which C
firmware does not need and which some distributions' Arm compilers lack.
"""

import shlex

from SCons.Script import DefaultEnvironment

env = DefaultEnvironment()
# A second --specs of the same name is an error, and nordicnrf52's builder gives some.
env.Replace(LINKFLAGS=[flag for flag in env["LINKFLAGS"] if not str(flag).startswith("--specs=")])
env.Append(LINKFLAGS=shlex.split(env.GetProjectOption("custom_link_flags", "")))
env.Replace(LIBS=[name for name in env["LIBS"] if name not in ("stdc++", "nosys")])
