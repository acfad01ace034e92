/* SPDX-License-Identifier: GPL-2.0-only */
/* Contents of pages, and random numbers. */
#include "coalesce.h"

#define WORDS (PAGE_SIZE / sizeof(uint64_t))

/* In the top 16 bits of each word. */
#define TAG       0xc0a1ULL
#define TAG_SHIFT 48
#define LOW_BITS  ((1ULL << TAG_SHIFT) - 1)

/* Say no more than this about wrong contents: one cause can have many effects. */
#define MAX_COMPLAINTS 8
static unsigned int complaints;

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;

    return x ^ (x >> 31);
}

/* Odd steps from a mixed start: cheap, and no two words of a page are alike. */
#define STEP 0x9e3779b97f4a7c15ULL

static uint64_t first_word(unsigned long gfn, uint32_t seed)
{
    return mix(((uint64_t)seed << 32) ^ gfn);
}

static uint64_t tagged(uint64_t x)
{
    return (x & LOW_BITS) | (TAG << TAG_SHIFT);
}

void co_fill(unsigned long gfn, uint32_t seed)
{
    uint64_t *p = pfn_to_virt(gfn), x = first_word(gfn, seed);
    unsigned int i;

    for ( i = 0; i < WORDS; i++, x += STEP )
        p[i] = tagged(x);

    barrier();
}

/* Compare every step-th word, beginning with word from. */
static bool check(unsigned long gfn, uint32_t seed, unsigned int from,
                  unsigned int step)
{
    const uint64_t *p = pfn_to_virt(gfn);
    uint64_t x = first_word(gfn, seed) + from * STEP;
    unsigned int i, wrong = 0, first = 0;

    barrier();

    for ( i = from; i < WORDS; i += step, x += step * STEP )
        if ( p[i] != tagged(x) && !wrong++ )
            first = i;

    if ( wrong && complaints++ < MAX_COMPLAINTS )
        printk("gfn %#lx: %u of %u words are wrong, word %u first: expected %#" PRIx64 ", got %#" PRIx64 "\n",
               gfn, wrong, (unsigned int)WORDS, first,
               tagged(first_word(gfn, seed) + first * STEP), p[first]);

    return !wrong;
}

bool co_check(unsigned long gfn, uint32_t seed)
{
    return check(gfn, seed, 0, 1);
}

bool co_check_some(unsigned long gfn, uint32_t seed, unsigned int turn)
{
    return check(gfn, seed, turn % CO_TURNS, CO_TURNS);
}

bool co_check_fresh(unsigned long gfn)
{
    const uint64_t *p = pfn_to_virt(gfn);
    unsigned int i;

    barrier();

    for ( i = 0; i < WORDS; i++ )
        if ( p[i] >> TAG_SHIFT == TAG )
        {
            if ( complaints++ < MAX_COMPLAINTS )
                printk("gfn %#lx: a fresh page holds old contents, word %u: %#" PRIx64 "\n",
                       gfn, i, p[i]);
            return false;
        }

    return true;
}

static uint64_t rand_state;

void co_srand(uint64_t seed)
{
    rand_state = seed;
}

uint64_t co_rand(void)
{
    rand_state += STEP;

    return mix(rand_state);
}

void co_shuffle(unsigned long *v, unsigned int nr)
{
    unsigned int i;

    for ( i = nr; i > 1; i-- )
    {
        unsigned int j = co_rand() % i;
        unsigned long tmp = v[i - 1];

        v[i - 1] = v[j];
        v[j] = tmp;
    }
}
