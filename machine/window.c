/* Memory of passed-through devices, as the engine may map it. */
#include "machine/private.h"

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

/* A guest may lay a BAR over anything; RAM and what was there before win. */
static bool is_free(const struct ram_region *taken, size_t count, const struct ram_window *w)
{
	for (size_t i = 0; i < count; i++)
		if (overlap(taken[i].gpa, taken[i].bytes, w->gpa, w->bytes))
			return false;
	return true;
}

size_t machine_windows(const struct machine *machine, struct ram_region *ret_windows, size_t max)
{
	struct ram_region ram[MACHINE_RAM_REGIONS];
	size_t regions = machine_ram_regions(machine, ram, ARRAY_SIZE(ram)), n = 0;

	for (const struct ram_window *w = machine->ram.windows; w && n < max; w = w->next)
		if (is_free(ram, regions, w) && is_free(ret_windows, n, w))
			ret_windows[n++] = (struct ram_region){ .gpa = w->gpa, .bytes = w->bytes, .host = w->host };
	return n;
}

static void tell(struct machine *machine, const struct ram_window *w)
{
	if (machine->hooks.map_changed)
		machine->hooks.map_changed(machine->hooks.opaque, w->gpa, w->bytes);
}

void ram_window_map(struct machine *machine, struct ram_window *w, gpa_t gpa)
{
	struct ram_window **end = &machine->ram.windows;

	if (w->mapped && w->gpa == gpa)
		return;
	ram_window_unmap(machine, w);
	while (*end)
		end = &(*end)->next;
	w->gpa = gpa;
	w->next = NULL;
	w->mapped = true;
	*end = w;
	tell(machine, w);
}

void ram_window_unmap(struct machine *machine, struct ram_window *w)
{
	struct ram_window **at = &machine->ram.windows;

	if (!w->mapped)
		return;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->mapped = false;
	tell(machine, w);
}
