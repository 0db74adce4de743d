# Files of bench/.
include bench/spike/local.mk
