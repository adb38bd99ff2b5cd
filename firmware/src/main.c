#include "poet/device.h"
#include "poet/hal.h"

/* Weak: a project of your own that has a main() uses the library by its loop (examples/own_loop). */
__attribute__((weak)) int main(int argc, char **argv)
{
    poet_hal_arguments(argc, argv);
    poet_run();
}
