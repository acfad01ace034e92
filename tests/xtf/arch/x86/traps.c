/* SPDX-License-Identifier: GPL-2.0-only */
#include <xtf/lib.h>
#include <xtf/numbers.h>
#include <xtf/report.h>
#include <xtf/traps.h>

#include <arch/lib.h>
#include <arch/page.h>

#define KERN_CS     0x08
#define TSS_SEL     0x18
#define NR_VECTORS  32
#define STUB_SIZE   16

#define X86_EXC_DF  8
#define X86_EXC_PF  14

struct idt_gate {
    uint16_t addr0;
    uint16_t cs;
    uint8_t  ist;
    uint8_t  type;
    uint16_t addr1;
    uint32_t addr2;
    uint32_t rsvd;
};

struct tss {
    uint32_t rsvd0;
    uint64_t rsp[3];
    uint64_t rsvd1;
    uint64_t ist[7];
    uint64_t rsvd2;
    uint16_t rsvd3;
    uint16_t iopb;
} __packed;

struct table_ptr {
    uint16_t limit;
    uint64_t base;
} __packed;

extern uint64_t gdt[];
extern const char exception_stubs[];
extern char df_stack_top[];

/* Filled in by the entry code. */
xen_pvh_start_info_t *pvh_start_info;

static struct idt_gate idt[NR_VECTORS] __aligned(16);
static struct tss tss __aligned(16);

static const char *const names[NR_VECTORS] = {
    [0] = "#DE", [1] = "#DB", [2] = "NMI", [3] = "#BP", [4] = "#OF",
    [5] = "#BR", [6] = "#UD", [7] = "#NM", [8] = "#DF", [10] = "#TS",
    [11] = "#NP", [12] = "#SS", [13] = "#GP", [14] = "#PF", [16] = "#MF",
    [17] = "#AC", [18] = "#MC", [19] = "#XM", [20] = "#VE", [21] = "#CP",
};

void arch_init_traps(void)
{
    const struct table_ptr idtr = { sizeof(idt) - 1, _u(idt) };
    unsigned long base = _u(&tss), limit = sizeof(tss) - 1;
    unsigned int i;

    for ( i = 0; i < NR_VECTORS; i++ )
    {
        unsigned long addr = _u(exception_stubs) + i * STUB_SIZE;

        idt[i] = (struct idt_gate){
            .addr0 = addr,
            .cs = KERN_CS,
            .ist = i == X86_EXC_DF,
            .type = 0x8e,       /* present, ring 0, interrupt gate */
            .addr1 = addr >> 16,
            .addr2 = addr >> 32,
        };
    }

    tss.ist[0] = _u(df_stack_top);
    tss.iopb = sizeof(tss);

    gdt[TSS_SEL / 8] = limit | ((base & 0xffffff) << 16) | (0x89UL << 40) |
                       ((base >> 24 & 0xff) << 56);
    gdt[TSS_SEL / 8 + 1] = base >> 32;

    __asm__ __volatile__ ( "lidt %0\n\t"
                           "ltr %w1"
                           :: "m" (idtr), "r" (TSS_SEL) : "memory" );
}

/* The linker puts the whole table between these two. */
extern const struct extable_entry __start_ex_table[], __stop_ex_table[];

const struct extable_entry *search_extable(unsigned long addr)
{
    const struct extable_entry *ex;

    for ( ex = __start_ex_table; ex < __stop_ex_table; ex++ )
        if ( ex->fault == addr )
            return ex;

    return NULL;
}

bool __weak do_unhandled_exception(struct cpu_regs *regs)
{
    (void)regs;

    return false;
}

void do_exception(struct cpu_regs *regs)
{
    static unsigned int depth;
    const struct extable_entry *ex = search_extable(regs->ip);
    const char *name;

    if ( ex )
    {
        if ( !ex->handler )
        {
            regs->ip = ex->fixup;
            return;
        }

        if ( ex->handler(regs, ex) )
            return;
    }

    if ( do_unhandled_exception(regs) )
        return;

    /* A trap on the way to reporting one must not go round in circles. */
    if ( depth++ )
        panic("Trap %lu at %#lx while reporting another\n",
              regs->entry_vector, regs->ip);

    name = regs->entry_vector < NR_VECTORS ? names[regs->entry_vector] : NULL;

    printk("Unhandled exception: vector %lu %s, error code %#lx\n",
           regs->entry_vector, name ?: "?", regs->error_code);
    printk("  rip %04lx:%016lx  rsp %04lx:%016lx  rflags %016lx\n",
           regs->cs, regs->ip, regs->_ss, regs->_sp, regs->flags);
    printk("  rax %016lx  rbx %016lx  rcx %016lx  rdx %016lx\n",
           regs->ax, regs->bx, regs->cx, regs->dx);
    printk("  rsi %016lx  rdi %016lx  rbp %016lx  r8  %016lx\n",
           regs->si, regs->di, regs->bp, regs->r8);
    printk("  r9  %016lx  r10 %016lx  r11 %016lx  r12 %016lx\n",
           regs->r9, regs->r10, regs->r11, regs->r12);
    printk("  r13 %016lx  r14 %016lx  r15 %016lx\n",
           regs->r13, regs->r14, regs->r15);
    if ( regs->entry_vector == X86_EXC_PF )
        printk("  cr2 %016lx\n", read_cr2());

    panic("Unhandled exception\n");
}
