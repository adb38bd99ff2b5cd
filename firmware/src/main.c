#include "poet/device.h"
#include "poet/hal.h"

int main(int argc, char **argv)
{
    poet_hal_arguments(argc, argv);
    poet_run();
}
