/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Several vCPUs in one guest.
 *
 * Xen starts a vCPU of an HVM guest wherever it is told to, in 64-bit mode if so
 * wanted: no trampoline is needed. The others use the tables of the first one
 * (page tables, GDT, IDT), so what traps there is reported here, too. They
 * have no TSS: a double fault of theirs ends in a triple fault.
 */
#include "coalesce.h"
#include "xen-abi.h"

#define STACK_SIZE (4 * PAGE_SIZE)
#define EFER_MSR   0xc0000080U

struct table_ptr {
    uint16_t limit;
    uint64_t base;
} __packed;

struct cpu {
    void (*fn)(unsigned int cpu, void *arg);
    void *arg;
    bool known;                 /* to Xen */
    bool busy;
};

static struct cpu cpus[CO_MAX_CPUS];
static uint8_t stacks[CO_MAX_CPUS][STACK_SIZE] __aligned(16);

void co_cpu_main(unsigned int cpu) __noreturn;
extern const char co_cpu_entry[];

/* What the entry loads; %rdi is the number of the vCPU. */
struct table_ptr co_gdtr, co_idtr;
uint64_t co_kern_cs, co_kern_ss;

__asm__ ( ".pushsection .text\n"
          ".globl co_cpu_entry\n"
          "co_cpu_entry:\n\t"
          "lgdt co_gdtr(%rip)\n\t"
          "lidt co_idtr(%rip)\n\t"
          "mov co_kern_ss(%rip), %rax\n\t"
          "mov %eax, %ss\n\t"
          "xor %eax, %eax\n\t"
          "mov %eax, %ds\n\t"
          "mov %eax, %es\n\t"
          "mov %eax, %fs\n\t"
          "mov %eax, %gs\n\t"
          "pushq co_kern_cs(%rip)\n\t"
          "lea 1f(%rip), %rax\n\t"
          "push %rax\n\t"
          "lretq\n"
          "1:\n\t"
          "xor %ebp, %ebp\n\t"
          "call co_cpu_main\n\t"
          "ud2\n"
          ".size co_cpu_entry, . - co_cpu_entry\n"
          ".popsection" );

static uint64_t read_efer(void)
{
    uint32_t lo, hi;

    __asm__ __volatile__ ( "rdmsr" : "=a" (lo), "=d" (hi) : "c" (EFER_MSR) );

    return lo | ((uint64_t)hi << 32);
}

unsigned int co_nr_cpus(void)
{
    unsigned int nr = 1;

    while ( nr < CO_MAX_CPUS &&
            hypercall_vcpu_op(ABI_VCPUOP_is_up, nr, NULL) >= 0 )
        nr++;

    return nr;
}

/* Runs what it is given, and goes to sleep until there is something else. */
void co_cpu_main(unsigned int cpu)
{
    struct cpu *c = &cpus[cpu];

    for ( ;; )
    {
        c->fn(cpu, c->arg);

        smp_mb();
        ACCESS_ONCE(c->busy) = false;
        hypercall_vcpu_op(ABI_VCPUOP_down, cpu, NULL);
        smp_mb();
    }
}

static int introduce(unsigned int cpu)
{
    static struct abi_vcpu_hvm_context ctx;
    struct abi_vcpu_hvm_x86_64 *r = &ctx.cpu_regs.x86_64;

    BUILD_BUG_ON(sizeof(ctx) != 8 + 120);

    memset(&ctx, 0, sizeof(ctx));
    ctx.mode = ABI_VCPU_HVM_MODE_64B;

    __asm__ __volatile__ ( "sgdt %0" : "=m" (co_gdtr) );
    __asm__ __volatile__ ( "sidt %0" : "=m" (co_idtr) );
    __asm__ __volatile__ ( "mov %%cs, %0" : "=r" (co_kern_cs) );
    __asm__ __volatile__ ( "mov %%ss, %0" : "=r" (co_kern_ss) );
    __asm__ __volatile__ ( "mov %%cr0, %0" : "=r" (r->cr0) );
    __asm__ __volatile__ ( "mov %%cr3, %0" : "=r" (r->cr3) );
    __asm__ __volatile__ ( "mov %%cr4, %0" : "=r" (r->cr4) );

    r->efer = read_efer();
    r->rip = _u(co_cpu_entry);
    r->rsp = _u(stacks[cpu]) + STACK_SIZE;
    r->rflags = 2;              /* the bit that is always set: no interrupts */
    r->rdi = cpu;

    return hypercall_vcpu_op(ABI_VCPUOP_initialise, cpu, &ctx);
}

int co_cpu_start(unsigned int cpu, void (*fn)(unsigned int cpu, void *arg),
                 void *arg)
{
    struct cpu *c = &cpus[cpu];
    int rc;

    if ( !cpu || cpu >= CO_MAX_CPUS )
        return -EINVAL;
    if ( ACCESS_ONCE(c->busy) )
        return -EBUSY;

    if ( !c->known )
    {
        rc = introduce(cpu);
        if ( rc )
            return rc;
        c->known = true;
    }

    /* It says that it is done before it is down, and must not sleep over this. */
    while ( hypercall_vcpu_op(ABI_VCPUOP_is_up, cpu, NULL) > 0 )
        hypercall_yield();

    c->fn = fn;
    c->arg = arg;
    c->busy = true;
    smp_mb();

    return hypercall_vcpu_op(ABI_VCPUOP_up, cpu, NULL);
}

bool co_cpu_busy(unsigned int cpu)
{
    return ACCESS_ONCE(cpus[cpu].busy);
}

bool co_cpu_wait(unsigned int cpu, uint64_t ns)
{
    uint64_t end = co_now() + ns;

    while ( co_cpu_busy(cpu) )
    {
        if ( co_now() > end )
            return false;
        hypercall_yield();
    }
    smp_mb();

    return true;
}

void co_barrier_wait(struct co_barrier *b, unsigned int nr)
{
    unsigned int turn = ACCESS_ONCE(b->turn);

    if ( __atomic_add_fetch(&b->arrived, 1, __ATOMIC_SEQ_CST) == nr )
    {
        b->arrived = 0;
        smp_mb();
        ACCESS_ONCE(b->turn) = turn + 1;
        return;
    }

    while ( ACCESS_ONCE(b->turn) == turn )
        hypercall_yield();
    smp_mb();
}
