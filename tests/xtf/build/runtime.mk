# SPDX-License-Identifier: GPL-2.0-only
#
# The runtime, once per environment: one relocatable object and a linker script.

include $(ROOT)/build/common.mk

.PHONY: all
all:
	@:

# Objects of all environments, and of the kind each belongs to.
obj-common := common/console.o common/report.o common/setup.o
obj-common += common/string.o common/vsnprintf.o
obj-hvm := arch/x86/hvm/head.o arch/x86/mm.o arch/x86/setup.o arch/x86/traps.o
obj-pv := arch/x86/pv/head.o arch/x86/pv/setup.o
obj-64 := arch/x86/entry_64.o

obj-hvm64 := $(obj-common) $(obj-hvm) $(obj-64)
obj-pv64 := $(obj-common) $(obj-pv)

define env-rules
dir := $(OUT)/obj/runtime/$(1)
objs := $$(call objects,$$(dir),$$(addprefix $(ROOT)/,$$(obj-$(1))))

$$(eval $$(call object-rules,$$(dir),$(1)))

all: $$(dir)/xtf.o $$(dir)/link.lds

$$(dir)/xtf.o: $$(objs)
	$$(call say,LD,$$@)
	$$(Q)$$(LD) -r $$^ -o $$@

$$(dir)/link.lds: $(ROOT)/arch/x86/link.lds.S $(ROOT)/build/common.mk
	@mkdir -p $$(@D)
	$$(call say,CPP,$$@)
	$$(Q)$$(CC) -E -P $$(COMMON_AFLAGS) $$(flags-$(1)) -x assembler-with-cpp $$< -o $$@

-include $$(objs:.o=.d)
endef
$(foreach env,$(ALL_ENVIRONMENTS),$(eval $(call env-rules,$(env))))
