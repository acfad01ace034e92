# SPDX-License-Identifier: GPL-2.0-only
# The machine has an IOMMU, and one of two guests has its memory mapped in it, as if it had a
# device: no page of that one is moved. The other is healed.
start_trace
guest one 144
guest two 144 'passthrough = "enabled"'
for name in one two; do
    must $name keep 16
    settle $name
    look $name born-$name
    balloon $name 104
    balloon $name 144
    settle $name
    must $name kept
    look $name end-$name
done
