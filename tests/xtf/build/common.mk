# SPDX-License-Identifier: GPL-2.0-only
#
# Settings for the tests and the runtime.  A test's Makefile includes this
# first, then says what it is, then includes gen.mk.

ifeq ($(ROOT),)
$(error Run make in the xtf folder, not in the folder of one test: make TESTS=name)
endif

# Further environments go here, with a block in arch/config.h and flags below.
ALL_ENVIRONMENTS   := hvm64 pv64
PV_ENVIRONMENTS    := $(filter pv%,$(ALL_ENVIRONMENTS))
HVM_ENVIRONMENTS   := $(filter hvm%,$(ALL_ENVIRONMENTS))
32BIT_ENVIRONMENTS := $(filter pv32% hvm32%,$(ALL_ENVIRONMENTS))
64BIT_ENVIRONMENTS := $(filter pv64% hvm64%,$(ALL_ENVIRONMENTS))

ALL_CATEGORIES := special functional xsa utility in-development

CC      := $(CROSS_COMPILE)gcc
LD      := $(CROSS_COMPILE)ld

# Short lines, or with V=1 the commands themselves.
Q := $(if $(V),,@)
say = @$(if $(V),:,echo '  $(1) $(patsubst $(OUT)/%,%,$(2))')

OUT ?= $(abspath $(ROOT)/../../out/xtf)

# The compiler's own headers (stdint.h and friends), and none of the host's.
COMMON_FLAGS := -pipe -nostdinc -isystem $(shell $(CC) -print-file-name=include)
COMMON_FLAGS += -I$(ROOT)/include -I$(ROOT)/arch/x86/include -MMD -MP
# Debug information names files from here, wherever the tree may be.
COMMON_FLAGS += -ffile-prefix-map=$(ROOT)/=

COMMON_CFLAGS := $(COMMON_FLAGS) -std=gnu99 -Wall -Wextra -Werror
COMMON_CFLAGS += -Wstrict-prototypes -Wmissing-prototypes -Wundef -O2 -g
COMMON_CFLAGS += -ffreestanding -fno-common -fno-strict-aliasing -fno-pic
COMMON_CFLAGS += -fno-stack-protector -fno-asynchronous-unwind-tables
COMMON_CFLAGS += -mno-red-zone -mgeneral-regs-only -fcf-protection=none
COMMON_AFLAGS := $(COMMON_FLAGS) -D__ASSEMBLY__

flags-hvm64 := -m64 -DCONFIG_ENV_hvm64 -include arch/config.h
flags-pv64 := -m64 -DCONFIG_ENV_pv64 -include arch/config.h

LDFLAGS-hvm64 := -nostdlib -static -no-pie --fatal-warnings --no-warn-rwx-segments
LDFLAGS-hvm64 += -z max-page-size=4096 -z noexecstack
LDFLAGS-pv64 := $(LDFLAGS-hvm64)

# object-rules(dir, env): how objects below $(dir) come from sources below ROOT
define object-rules
$(1)/%.o: $(ROOT)/%.c $(ROOT)/build/common.mk
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)
	$$(Q)$$(CC) $$(COMMON_CFLAGS) $$(flags-$(2)) -c $$< -o $$@

$(1)/%.o: $(ROOT)/%.S $(ROOT)/build/common.mk
	@mkdir -p $$(@D)
	$$(call say,AS,$$@)
	$$(Q)$$(CC) $$(COMMON_AFLAGS) $$(flags-$(2)) -c $$< -o $$@
endef

# objects(dir, names): where the objects for names (relative or absolute) go
objects = $(patsubst $(ROOT)/%,$(1)/%,$(abspath $(2)))

.SECONDARY:
.DELETE_ON_ERROR:
