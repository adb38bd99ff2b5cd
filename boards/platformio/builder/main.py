"""Builder of the stand-in platforms: bare builds only, with the Arm compiler on PATH, as the official ones do them.

It serves where PlatformIO's registry cannot be reached. platform.json and the board's manifest are written
beside it by poet_codegen.platformio.standins; the same platformio.ini works with the official platform.
"""

import sys

from SCons.Script import COMMAND_LINE_TARGETS, AlwaysBuild, Builder, Default, DefaultEnvironment

env = DefaultEnvironment()
cpu = f"-mcpu={env.BoardConfig().get('build.cpu')}"

env.Replace(
    AR="arm-none-eabi-gcc-ar",
    AS="arm-none-eabi-as",
    CC="arm-none-eabi-gcc",
    CXX="arm-none-eabi-g++",
    OBJCOPY="arm-none-eabi-objcopy",
    RANLIB="arm-none-eabi-gcc-ranlib",
    SIZETOOL="arm-none-eabi-size",
    ARFLAGS=["rc"],
    SIZEPROGREGEXP=r"^(?:\.text|\.data|\.rodata|\.text.align|\.ARM.exidx|\.isr_vector)\s+(\d+).*",
    SIZEDATAREGEXP=r"^(?:\.data|\.bss|\.noinit)\s+(\d+).*",
    SIZECHECKCMD="$SIZETOOL -A -d $SOURCES",
    SIZEPRINTCMD="$SIZETOOL -B -d $SOURCES",
    PROGNAME="firmware",
    PROGSUFFIX=".elf",
)
env.Append(
    ASFLAGS=["-mthumb", cpu],
    ASPPFLAGS=["-x", "assembler-with-cpp"],
    CCFLAGS=["-Os", "-ffunction-sections", "-fdata-sections", "-Wall", "-mthumb", cpu],
    CPPDEFINES=[("F_CPU", "$BOARD_F_CPU")],
    LINKFLAGS=["-Os", "-Wl,--gc-sections,--relax", "-mthumb", cpu],
    LIBS=["c", "gcc", "m"],
    BUILDERS={
        "ElfToBin": Builder(
            action=env.VerboseAction("$OBJCOPY -O binary $SOURCES $TARGET", "Building $TARGET"),
            suffix=".bin",
        )
    },
)

# Debug probes that OpenOCD speaks to; J-Links too, whose own tools are PlatformIO's packages.
OPENOCD_INTERFACES = {"stlink": "stlink", "cmsis-dap": "cmsis-dap", "jlink": "jlink"}


def upload_action():
    """What uploads by the project's upload_protocol, or says why nothing does."""
    protocol = env.GetProjectOption("upload_protocol", "")
    target = env.BoardConfig().get("debug.openocd_target", None)
    if protocol not in OPENOCD_INTERFACES or target is None:
        known = ", ".join(OPENOCD_INTERFACES)
        sys.stderr.write(
            f"Without PlatformIO's registry, uploading goes through the system's OpenOCD, by {known}; not by "
            f"'{protocol}'. Change upload_protocol in platformio.ini, or install PlatformIO's own packages.\n"
        )
        env.Exit(1)
    interface = f"interface/{OPENOCD_INTERFACES[protocol]}.cfg"
    transport = ["-c", "transport select swd"] if protocol == "jlink" else []
    arguments = ["openocd", "-f", interface, *transport, "-f", f"target/{target}.cfg"]
    program = "program {$SOURCE} verify reset exit"
    return " ".join(f'"{word}"' for word in [*arguments, "-c", program])


elf = env.BuildProgram()
image = env.ElfToBin("$BUILD_DIR/${PROGNAME}", elf)
if "upload" in COMMAND_LINE_TARGETS:
    AlwaysBuild(env.Alias("upload", elf, env.VerboseAction(upload_action(), "Uploading $SOURCE")))
AlwaysBuild(env.Alias("size", elf, env.VerboseAction("$SIZEPRINTCMD", "Calculating size $SOURCE")))
Default([env.Alias("buildprog", image), "size"])
