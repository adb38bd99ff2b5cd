#include "poet/hal.h"

#include "clock.h"
#include "config.h"
#include "registers.h"

#define SYSTICK_PERIOD 0x01000000u /* all of its 24 bits: 100 ms at 168 MHz */

/* Bytes that come while a training step runs wait here; a power of two. The longest request has 528. */
#define RECEIVE_BYTES 1024u

#define USART1_IRQ_BIT (1u << (USART1_IRQ - 32u))

void poet_systick_handler(void);
void poet_usart1_handler(void);

extern uint8_t _poet_stack_bottom[];
extern uint8_t _poet_stack_top[];

static volatile uint8_t received[RECEIVE_BYTES];
static volatile uint32_t received_head; /* written by the interrupt */
static volatile uint32_t received_tail;
static volatile uint32_t overruns;
static volatile uint32_t systick_wraps;
static uint64_t last_ticks;

static uint32_t lock(void)
{
    uint32_t primask;
    __asm volatile("mrs %0, primask\n\tcpsid i" : "=r"(primask)::"memory");
    return primask;
}

static void unlock(uint32_t primask)
{
    __asm volatile("msr primask, %0" ::"r"(primask) : "memory");
}

void poet_hal_arguments(int argc, char **argv)
{
    (void)argc;
    (void)argv;
}

static void set_pin_mode(uint32_t port, uint32_t pin, uint32_t mode)
{
    RCC_AHB1ENR |= 1u << port;
    (void)RCC_AHB1ENR;
    GPIO_MODER(port) = (GPIO_MODER(port) & ~(3u << (2u * pin))) | (mode << (2u * pin));
}

static void route_to_usart(uint32_t port, uint32_t pin)
{
    const uint32_t shift = 4u * (pin % 8u);
    set_pin_mode(port, pin, GPIO_MODE_ALTERNATE);
    GPIO_AFR(port, pin) = (GPIO_AFR(port, pin) & ~(0xFu << shift)) | (GPIO_AF_USART1 << shift);
}

static void init_uart(void)
{
    /* An open receive line would read as garbage: pull it up. */
    route_to_usart(POET_UART_GPIO, POET_UART_TX_PIN);
    route_to_usart(POET_UART_GPIO, POET_UART_RX_PIN);
    GPIO_PUPDR(POET_UART_GPIO) |= 1u << (2u * POET_UART_RX_PIN);

    RCC_APB2ENR |= RCC_APB2ENR_USART1;
    (void)RCC_APB2ENR;
    USART1_BRR = (POET_UART_CLOCK_HZ + POET_UART_BAUD / 2u) / POET_UART_BAUD;
    USART1_CR1 = USART_CR1_UE | USART_CR1_TE | USART_CR1_RE | USART_CR1_RXNEIE;
    NVIC_ISER1 = USART1_IRQ_BIT;
}

void poet_hal_init(void)
{
    poet_clock_init();
    SYST_RVR = SYSTICK_PERIOD - 1u;
    SYST_CVR = 0;
    SYST_CSR = SYST_CSR_CLKSOURCE | SYST_CSR_TICKINT | SYST_CSR_ENABLE;
    set_pin_mode(POET_MARKER_GPIO, POET_MARKER_PIN, GPIO_MODE_OUTPUT);
    init_uart();
}

const char *poet_hal_port(void)
{
    return "stm32f4";
}

void poet_systick_handler(void)
{
    systick_wraps++;
}

uint64_t poet_hal_ticks(void)
{
    const uint32_t primask = lock();
    uint32_t count = SYST_CVR;
    uint32_t wraps = systick_wraps;
    if (SCB_ICSR & SCB_ICSR_PENDSTSET) {
        /* Wrapped, but the interrupt was not taken yet. */
        count = SYST_CVR;
        wraps++;
    }
    const uint64_t ticks = (uint64_t)wraps * SYSTICK_PERIOD + (SYSTICK_PERIOD - 1u - count);
    /* An emulator may show the new count before it raises the interrupt. */
    if (ticks > last_ticks) {
        last_ticks = ticks;
    }
    const uint64_t monotonic = last_ticks;
    unlock(primask);
    return monotonic;
}

uint32_t poet_hal_tick_hz(void)
{
    return POET_CPU_HZ;
}

void poet_usart1_handler(void)
{
    const uint32_t status = USART1_SR;
    if (status & USART_SR_ORE) {
        overruns++;
    }
    if (!(status & (USART_SR_RXNE | USART_SR_ORE))) {
        return;
    }
    const uint32_t head = received_head;
    if (head - received_tail == RECEIVE_BYTES) {
        /* Leave the byte where it is: an emulated line then waits, a real one overruns, which is counted. */
        NVIC_ICER1 = USART1_IRQ_BIT;
        return;
    }
    received[head % RECEIVE_BYTES] = (uint8_t)USART1_DR;
    received_head = head + 1u;
}

size_t poet_hal_uart_read(uint8_t *data, size_t size)
{
    size_t taken = 0;
    while (taken < size && received_tail != received_head) {
        data[taken++] = received[received_tail % RECEIVE_BYTES];
        received_tail = received_tail + 1u;
    }
    NVIC_ISER1 = USART1_IRQ_BIT;
    return taken;
}

uint32_t poet_hal_uart_overruns(void)
{
    return overruns;
}

void poet_hal_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        while (!(USART1_SR & USART_SR_TXE)) {
        }
        USART1_DR = data[i];
    }
    while (!(USART1_SR & USART_SR_TC)) {
    }
}

void poet_hal_idle(void)
{
    /* With interrupts masked, one that comes between the look and the WFI still ends the WFI. */
    const uint32_t primask = lock();
    if (received_tail == received_head) {
        __asm volatile("wfi" ::: "memory");
    }
    unlock(primask);
}

void poet_hal_marker(bool high)
{
    GPIO_BSRR(POET_MARKER_GPIO) = 1u << (POET_MARKER_PIN + (high ? 0u : 16u));
}

void poet_hal_stack(uint8_t **lowest, uint8_t **highest)
{
    *lowest = _poet_stack_bottom;
    *highest = _poet_stack_top;
}

void poet_hal_reset(void)
{
    SCB_AIRCR = SCB_AIRCR_RESET;
    for (;;) {
    }
}
