/* A token bucket: so many bytes a second on average, and bursts of a bounded size. */
#include "machine/net/net.h"

#define BURST_MS 50u
#define NS_PER_S 1000000000ull

void net_rate_set(struct net_rate *rate, uint64_t bytes_per_second, uint64_t burst, uint64_t now_ns)
{
	if (burst == 0)
		burst = bytes_per_second / (1000 / BURST_MS);
	if (burst < NET_FRAME_MAX)
		burst = NET_FRAME_MAX;
	*rate = (struct net_rate){.bytes_per_second = bytes_per_second, .burst = burst, .tokens = (int64_t)burst, .at_ns = now_ns};
}

static void refill(struct net_rate *rate, uint64_t now_ns)
{
	uint64_t passed = now_ns > rate->at_ns ? now_ns - rate->at_ns : 0;
	uint64_t full_after = rate->burst / rate->bytes_per_second + 1; /* seconds; bounds the product below */
	uint64_t gained;

	if (rate->tokens < 0)
		full_after += (uint64_t)-rate->tokens / rate->bytes_per_second + 1;
	if (passed / NS_PER_S >= full_after) {
		rate->tokens = (int64_t)rate->burst;
		rate->at_ns = now_ns;
		return;
	}
	gained = (uint64_t)((unsigned __int128)passed * rate->bytes_per_second / NS_PER_S);
	/* Parts of a byte are not lost: the clock only moves by whole ones. */
	rate->at_ns += (uint64_t)((unsigned __int128)gained * NS_PER_S / rate->bytes_per_second);
	rate->tokens += (int64_t)gained;
	if (rate->tokens > (int64_t)rate->burst)
		rate->tokens = (int64_t)rate->burst;
}

bool net_rate_ready(struct net_rate *rate, uint64_t now_ns, int *ret_wait_ms)
{
	uint64_t missing_ms;

	if (rate->bytes_per_second == 0)
		return true;
	refill(rate, now_ns);
	/* A frame may pass while there is any credit, and the debt is paid before the next: no frame is too large for ever. */
	if (rate->tokens > 0)
		return true;
	missing_ms = (uint64_t)(1 - rate->tokens) * 1000 / rate->bytes_per_second + 1;
	*ret_wait_ms = missing_ms > 1000 ? 1000 : (int)missing_ms;
	return false;
}

void net_rate_take(struct net_rate *rate, uint64_t bytes)
{
	if (rate->bytes_per_second != 0)
		rate->tokens -= (int64_t)bytes;
}
