/* policy.plan: on a thread of its own, since a fleet takes long enough to be noticed by everybody else. */
#include "daemon/private.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct plan {
	LIST_ENTRY(plan) link;
	struct daemon *daemon;
	json_object *hosts, *vms; /* ours alone while the thread runs: nobody else touches them */
	json_object *result;
	char error[700];
	int rc;
	pthread_t thread;
	int fd; /* eventfd: it is done */
	struct event *ready;
	daemon_done_fn done;
	void *opaque;
};

static void *work(void *opaque)
{
	struct plan *plan = opaque;
	uint64_t one = 1;

	plan->rc = policy_plan(plan->hosts, plan->vms, &plan->result, plan->error, sizeof(plan->error));
	if (write(plan->fd, &one, sizeof(one)) != sizeof(one))
		abort(); /* a fresh eventfd takes a 1 */
	return NULL;
}

static void plan_free(struct plan *plan)
{
	LIST_REMOVE(plan, link);
	if (plan->ready)
		event_free(plan->ready);
	if (plan->fd >= 0)
		close(plan->fd);
	json_object_put(plan->hosts);
	json_object_put(plan->vms);
	json_object_put(plan->result);
	free(plan);
}

static void on_ready(evutil_socket_t fd, short what, void *opaque)
{
	struct plan *plan = opaque;

	pthread_join(plan->thread, NULL);
	if (plan->rc)
		answer_error(plan->done, plan->opaque, plan->rc == -EINVAL ? DAEMON_INVALID : DAEMON_INTERNAL, "%s",
			     plan->error);
	else
		plan->done(plan->opaque, NULL, plan->result);
	plan_free(plan);
}

static int start(struct plan *plan)
{
	sigset_t all, old;
	int r;

	plan->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (plan->fd < 0)
		return -errno;
	plan->ready = event_new(plan->daemon->base, plan->fd, EV_READ, on_ready, plan);
	if (!plan->ready || event_add(plan->ready, NULL))
		return -ENOMEM;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&plan->thread, NULL, work, plan);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

void daemon_plan(struct daemon *daemon, json_object *hosts, json_object *vms, daemon_done_fn done, void *opaque)
{
	struct plan *plan = calloc(1, sizeof(*plan));
	int rc = plan ? 0 : -ENOMEM;

	if (plan) {
		plan->daemon = daemon;
		plan->fd = -1;
		plan->done = done;
		plan->opaque = opaque;
		/* A copy: json-c's reference counts belong to the loop's thread. */
		LIST_INSERT_HEAD(&daemon->plans, plan, link);
		if (json_object_deep_copy(hosts, &plan->hosts, NULL) < 0 || json_object_deep_copy(vms, &plan->vms, NULL) < 0)
			rc = -ENOMEM;
		else
			rc = start(plan);
	}
	if (!rc)
		return;
	if (plan)
		plan_free(plan);
	answer_error(done, opaque, DAEMON_INTERNAL, "policy.plan: %s", strerror(-rc));
}

void plans_finish(struct daemon *daemon)
{
	struct plan *plan;

	while ((plan = LIST_FIRST(&daemon->plans))) {
		pthread_join(plan->thread, NULL);
		plan_free(plan);
	}
}
