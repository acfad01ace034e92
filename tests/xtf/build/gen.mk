# SPDX-License-Identifier: GPL-2.0-only
#
# Rules for one test, from what its Makefile said.

ifeq ($(NAME),)
$(error NAME is not set)
endif
ifeq ($(filter $(CATEGORY),$(ALL_CATEGORIES)),)
$(error CATEGORY must be one of: $(ALL_CATEGORIES))
endif
ifneq ($(filter-out $(ALL_ENVIRONMENTS),$(TEST-ENVS)),)
$(error Unknown environment in TEST-ENVS; there are: $(ALL_ENVIRONMENTS))
endif

.PHONY: build
build: $(foreach env,$(TEST-ENVS),$(OUT)/test-$(env)-$(NAME))
	@:

define env-rules
dir := $(OUT)/obj/$(NAME)/$(1)
runtime := $(OUT)/obj/runtime/$(1)
objs := $$(call objects,$$(dir),$$(obj-perbits) $$(obj-perenv))

$$(eval $$(call object-rules,$$(dir),$(1)))

$(OUT)/test-$(1)-$(NAME): $$(objs) $$(runtime)/xtf.o $$(runtime)/link.lds
	$$(call say,LD,$$@)
	$$(Q)$$(LD) $$(LDFLAGS-$(1)) -T $$(filter %.lds,$$^) $$(filter %.o,$$^) -o $$@

-include $$(objs:.o=.d)
endef
$(foreach env,$(TEST-ENVS),$(eval $(call env-rules,$(env))))
