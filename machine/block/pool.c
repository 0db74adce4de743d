/* Requests of a file on a few threads, where there is no io_uring: in most containers, for one. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine/block/aio.h"

#define THREADS 4

struct list {
	struct block_request *first, **end;
};

struct pool {
	struct aio aio;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct list waiting, done;
	bool quit;
	pthread_t thread[THREADS];
	unsigned threads;
};

static struct pool *of(struct aio *aio) { return (struct pool *)(void *)aio; }

static void put(struct list *list, struct block_request *request)
{
	request->next = NULL;
	*(list->first ? list->end : &list->first) = request;
	list->end = &request->next;
}

static struct block_request *get(struct list *list)
{
	struct block_request *request = list->first;

	if (request)
		list->first = request->next;
	return request;
}

static int64_t step(struct pool *pool, const struct block_request *request)
{
	int fd = request->direct ? pool->aio.files.direct : pool->aio.files.cached;
	const struct iovec *iov = request->iov + request->iov_at;
	int count = (int)(request->iov_count - request->iov_at);
	ssize_t r = -1;

	do {
		switch (request->op) {
		case BLOCK_READ: r = preadv(fd, iov, count, (off_t)request->at); break;
		case BLOCK_WRITE: r = pwritev2(fd, iov, count, (off_t)request->at, request->sync ? RWF_DSYNC : 0); break;
		case BLOCK_FLUSH: r = fdatasync(pool->aio.files.cached); break;
		case BLOCK_DISCARD:
		case BLOCK_ZERO:
			r = fallocate(pool->aio.files.cached, request->result, (off_t)request->at, (off_t)request->left);
			break;
		}
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static void *pool_main(void *opaque)
{
	struct pool *pool = opaque;
	const uint64_t one = 1;

	pthread_setname_np(pthread_self(), "disk");
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct block_request *request = get(&pool->waiting);
		int64_t result;
		bool first;

		if (!request && pool->quit)
			break;
		if (!request) {
			pthread_cond_wait(&pool->work, &pool->lock);
			continue;
		}
		pthread_mutex_unlock(&pool->lock);
		result = step(pool, request);
		pthread_mutex_lock(&pool->lock);
		request->result = (int)result; /* bytes of one request fit: at most 2 GiB less a page are moved at once */
		first = !pool->done.first;
		put(&pool->done, request);
		if (first && write(pool->aio.event_fd, &one, sizeof(one)) < 0)
			continue; /* full: it is readable anyway */
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static void submit(struct aio *aio, struct block_request *request, int fallocate_mode)
{
	struct pool *pool = of(aio);

	request->result = fallocate_mode;
	pthread_mutex_lock(&pool->lock);
	put(&pool->waiting, request);
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

static unsigned reap(struct aio *aio)
{
	struct pool *pool = of(aio);
	struct block_request *request, *next;
	unsigned n = 0;

	pthread_mutex_lock(&pool->lock);
	request = pool->done.first;
	pool->done.first = NULL;
	pthread_mutex_unlock(&pool->lock);
	for (; request; request = next, n++) {
		next = request->next;
		aio->stepped(request, request->result);
	}
	return n;
}

static void destroy(struct aio *aio)
{
	struct pool *pool = of(aio);

	if (!aio)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->quit = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->threads; i++)
		pthread_join(pool->thread[i], NULL);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	if (aio->event_fd >= 0)
		close(aio->event_fd);
	free(pool);
}

static const struct aio_ops pool_ops = {.name = "threads", .submit = submit, .reap = reap, .destroy = destroy};

int aio_pool_create(const struct aio_files *files, struct aio **ret_aio)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	sigset_t all, old;
	int rc = 0;

	if (!pool)
		return -ENOMEM;
	pool->aio = (struct aio){.ops = &pool_ops, .files = *files};
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pool->aio.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (pool->aio.event_fd < 0)
		rc = -errno;
	sigfillset(&all);
	sigdelset(&all, SIGSYS); /* as of all workers: the sandbox's way to every thread */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (rc == 0 && pool->threads < THREADS) {
		rc = -pthread_create(&pool->thread[pool->threads], NULL, pool_main, pool);
		pool->threads += rc == 0;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0) {
		destroy(&pool->aio);
		return rc;
	}
	*ret_aio = &pool->aio;
	return 0;
}
