/* Numbers of the processor features that have names in a VM's definition. */
#ifndef PROTO_CPU_FEATURES_H
#define PROTO_CPU_FEATURES_H

enum cpu_feature {
#define CPU_FEATURE(name, leaf, subleaf, reg, bit, source) CPU_FEATURE_##name,
#include "proto/cpu_features.def"
#undef CPU_FEATURE
	CPU_FEATURE_COUNT
};

/* What somebody wants of each. The numbers are those of enum vmdef_tristate. */
enum cpu_feature_wish { CPU_FEATURE_DEFAULT, CPU_FEATURE_OFF, CPU_FEATURE_ON };

#endif
