#ifndef POET_DEVICE_H
#define POET_DEVICE_H

/* Boot: paint, ports, storage, the newest checkpoint or initial parameters. Then answer the host for ever. */
void poet_run(void);

#endif
