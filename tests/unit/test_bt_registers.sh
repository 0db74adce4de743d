#!/bin/sh
# Helpers run while the guest's vector and x87 registers are live in the host's: their code must leave those alone and
# call nothing that might not.
libs="${top_builddir:-.}/libbtcore.a ${top_builddir:-.}/libpvcore.a"

echo 1..2
for lib in $libs; do
	if ! [ -f "$lib" ]; then
		echo "not ok 1 - $lib is not built"
		echo "not ok 2 - $lib is not built"
		exit 0
	fi
done
if nm -u $libs | grep -q '__asan\|__ubsan'; then
	echo "ok 1 # SKIP a sanitizer's build calls its run-time library"
	echo "ok 2 # SKIP a sanitizer's build calls its run-time library"
	exit 0
fi

# Functions whose purpose is that state: fpu.c, xstate.c, vector.c, and those that query it.
state='bt_fpu_leave|bt_fpu_enter|bt_fpu_pending|bt_op_(fx|x|fn|frstor|fldenv).*|xsave|host_xsave|fxsave_live|bt_op_gather|bt_op_v?maskmov'
state="$state|registers_save|registers_load"
touched=$(objdump -d --no-show-raw-insn $libs | awk -v state="^($state)(\\\\..*)?\$" '
	/^[0-9a-f]+ <.*>:$/ { fn = $2; gsub(/[<>:]/, "", fn); next }
	/%[xyz]mm[0-9]|%mm[0-7]|%st|\t(f[a-z0-9]+|emms|vzero[a-z]+|ldmxcsr|stmxcsr|xsave[a-z0-9]*|xrstor[a-z0-9]*)( |$)/ {
		if (fn !~ state && !seen[fn]++) print fn
	}')
if [ -z "$touched" ]; then
	echo "ok 1 - no helper touches vector or x87 registers"
else
	echo "not ok 1 - no helper touches vector or x87 registers"
	echo "$touched" | sed 's/^/# /'
fi

# What may be called: machine functions that are held to the same rule by a test of theirs, or are bracketed by
# bt_fpu_leave and bt_fpu_enter; what BUG_ON needs to die; the system calls of cache.c, which run before any guest code.
allowed='^(machine_[a-z0-9_]+|cpuid_(query|kvm_base)|cpu_state_(reset|init)|clock_gettime'
allowed="$allowed|abort|fprintf|fwrite|stderr|_GLOBAL_OFFSET_TABLE_"
allowed="$allowed|ftruncate|mmap|munmap|close|syscall|__errno_location|madvise|memfd_create|pthread_mutex_[a-z]+)\$"
defined=$(mktemp)
nm --defined-only $libs 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u >"$defined"
foreign=$(nm -u $libs 2>/dev/null | awk '$1 == "U" { print $2 }' | sort -u | comm -23 - "$defined" | grep -Ev "$allowed")
rm -f "$defined"
if [ -z "$foreign" ]; then
	echo "ok 2 - helpers call nothing that may touch them"
else
	echo "not ok 2 - helpers call nothing that may touch them"
	echo "$foreign" | sed 's/^/# /'
fi
