/* virtio-rng (virtio 1.2, 5.4): the host kernel's random bytes. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "machine/virtio/virtio.h"

/* What one request gets at most; a driver that wants more asks again. */
#define REQUEST_MAX 4096u

struct virtio_rng {
	struct virtio_device dev;
	_Atomic uint64_t bytes;
};

static uint32_t serve(struct virtio_device *dev, unsigned queue, const struct virtq_chain *chain)
{
	struct virtio_rng *rng = CONTAINER_OF(dev, struct virtio_rng, dev);
	uint8_t random[REQUEST_MAX];
	size_t want = chain->writable_bytes < sizeof(random) ? (size_t)chain->writable_bytes : sizeof(random), have = 0;

	while (have < want) {
		ssize_t r = getrandom(random + have, want - have, 0);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		have += (size_t)r;
	}
	have = virtq_chain_write(dev->machine, chain, 0, random, have);
	explicit_bzero(random, sizeof(random));
	rng->bytes += have;
	return (uint32_t)have;
}

static void destroy(struct virtio_device *dev) { free(CONTAINER_OF(dev, struct virtio_rng, dev)); }

static size_t stats(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max)
{
	if (max == 0)
		return 0;
	ret_rows[0] = (struct machine_stat){"virtio_rng_bytes", CONTAINER_OF(dev, struct virtio_rng, dev)->bytes};
	return 1;
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.id = 4,
	.pci_class = 0x00ff,
	.serve = serve,
	.destroy = destroy,
	.stats = stats,
};

int machine_add_rng(struct machine *machine, const char **ret_error)
{
	struct virtio_rng *rng = calloc(1, sizeof(*rng));
	int rc;

	if (!rng) {
		*ret_error = "no memory for the random number device";
		return -ENOMEM;
	}
	rng->dev.ops = &rng_ops;
	rng->dev.queues = 1;
	rc = virtio_device_init(&rng->dev, machine);
	if (rc < 0) {
		*ret_error = "the random number device finds no place on the PCI bus";
		free(rng);
	}
	return rc;
}
