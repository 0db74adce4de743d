/* Channels of VMware's backdoor: messages in pieces of 4 bytes, or whole by the data port (guest_msg_def.h). */
#include "machine/vmware/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { TYPE_OPEN, TYPE_SENDSIZE, TYPE_SENDPAYLOAD, TYPE_RECVSIZE, TYPE_RECVPAYLOAD, TYPE_RECVSTATUS, TYPE_CLOSE };

#define STATUS_SUCCESS 0x0001u
#define STATUS_DORECV 0x0002u
#define STATUS_HB 0x0080u

#define PROTOCOL_RPCI 0x49435052u
#define PROTOCOL_TCLO 0x4f4c4354u
#define FLAG_COOKIE 0x80000000u

#define DATA_MESSAGE 0u /* the data port's only command here */
#define IDLE_NS (30 * 1000000000ull)

/* ---- buffers ----------------------------------------------------------------------------------------------- */

int vmware_buffer_append(struct buffer *b, const void *data, uint32_t bytes)
{
	if (bytes > b->room - b->bytes) {
		uint64_t room = (uint64_t)b->bytes + bytes + b->room / 2;
		uint8_t *more = room > UINT32_MAX ? NULL : realloc(b->data, room);

		if (!more)
			return -ENOMEM;
		b->data = more;
		b->room = (uint32_t)room;
	}
	if (bytes)
		memcpy(b->data + b->bytes, data, bytes);
	b->bytes += bytes;
	return 0;
}

int vmware_buffer_set(struct buffer *b, const void *data, uint32_t bytes)
{
	b->bytes = 0;
	return vmware_buffer_append(b, data, bytes);
}

void vmware_buffer_free(struct buffer *b)
{
	free(b->data);
	*b = (struct buffer){0};
}

/* ---- channels ------------------------------------------------------------------------------------------------ */

void vmware_channel_close(struct channel *c)
{
	vmware_buffer_free(&c->in);
	vmware_buffer_free(&c->out);
	*c = (struct channel){0};
}

/* Programs that are killed leave theirs open: when there is no other, the one that has been idle longest is taken. */
static struct channel *channel_find_free(struct vmware *w)
{
	uint64_t now = machine_clock_ns(w->machine);
	struct channel *oldest = NULL;

	for (unsigned i = 0; i < CHANNELS; i++) {
		struct channel *c = &w->channels[i];

		if (c->kind == CHANNEL_FREE)
			return c;
		if (!oldest || c->used_at < oldest->used_at)
			oldest = c;
	}
	if (now - oldest->used_at < IDLE_NS)
		return NULL;
	vmware_channel_close(oldest);
	return oldest;
}

static unsigned channel_open(struct vmware *w, uint32_t r[VMWARE_REGISTERS])
{
	uint32_t protocol = r[VMWARE_BX] & ~FLAG_COOKIE;
	struct channel *c;

	if (protocol != PROTOCOL_RPCI && protocol != PROTOCOL_TCLO)
		return 0;
	c = channel_find_free(w);
	if (!c)
		return 0;
	c->kind = protocol == PROTOCOL_RPCI ? CHANNEL_RPCI : CHANNEL_TCLO;
	c->cookies = r[VMWARE_BX] & FLAG_COOKIE;
	c->used_at = machine_clock_ns(w->machine);
	r[VMWARE_SI] = r[VMWARE_DI] = 0;
	if (c->cookies) {
		/* They keep the guest's programs apart; the guest's kernel could read them anyway. */
		if (getrandom(c->cookie, sizeof(c->cookie), GRND_NONBLOCK) != sizeof(c->cookie)) {
			vmware_channel_close(c);
			return 0;
		}
		r[VMWARE_SI] = c->cookie[0];
		r[VMWARE_DI] = c->cookie[1];
	}
	r[VMWARE_DX] = (r[VMWARE_DX] & 0xffff) | (uint32_t)(c - w->channels) << 16;
	return STATUS_SUCCESS;
}

static struct channel *channel_of(struct vmware *w, uint32_t id, uint32_t cookie_high, uint32_t cookie_low)
{
	struct channel *c = id < CHANNELS ? &w->channels[id] : NULL;

	if (!c || c->kind == CHANNEL_FREE)
		return NULL;
	if (c->cookies && (c->cookie[0] != cookie_high || c->cookie[1] != cookie_low))
		return NULL;
	c->used_at = machine_clock_ns(w->machine);
	return c;
}

/* ---- from the guest --------------------------------------------------------------------------------------------- */

static void message_complete(struct vmware *w, struct channel *c)
{
	c->receiving = false;
	w->messages++;
	vmware_request(w, c);
	vmware_buffer_free(&c->in);
}

static unsigned send_size(struct vmware *w, struct channel *c, uint32_t size)
{
	vmware_buffer_free(&c->in);
	c->receiving = false;
	if (size > MESSAGE_MAX)
		return 0;
	/* A new request: nobody will fetch the last one's reply. */
	c->has_out = false;
	c->in_size = size;
	c->receiving = true;
	if (!size)
		message_complete(w, c);
	return STATUS_SUCCESS;
}

static bool take_payload(struct vmware *w, struct channel *c, const void *data, uint32_t n)
{
	if (!c->receiving || n > c->in_size - c->in.bytes)
		return false;
	if (vmware_buffer_append(&c->in, data, n)) {
		c->receiving = false;
		return false;
	}
	if (c->in.bytes == c->in_size)
		message_complete(w, c);
	return true;
}

static unsigned send_payload(struct vmware *w, struct channel *c, uint32_t piece)
{
	uint32_t left = c->receiving ? c->in_size - c->in.bytes : 0;

	return left && take_payload(w, c, &piece, left < 4 ? left : 4) ? STATUS_SUCCESS : 0;
}

/* ---- to the guest ------------------------------------------------------------------------------------------------- */

static unsigned receive_size(struct vmware *w, struct channel *c, uint32_t r[VMWARE_REGISTERS])
{
	if (!c->has_out && c->kind == CHANNEL_TCLO && vmware_next_command(w, c))
		c->has_out = true;
	if (!c->has_out)
		return STATUS_SUCCESS;
	c->out_at = 0;
	r[VMWARE_BX] = c->out.bytes;
	r[VMWARE_DX] = (r[VMWARE_DX] & 0xffff) | TYPE_SENDSIZE << 16;
	return STATUS_SUCCESS | STATUS_DORECV;
}

/* The guest says in ebx whether the last piece was to its liking; if not, this message is over. */
static unsigned receive_payload(struct channel *c, uint32_t r[VMWARE_REGISTERS])
{
	uint32_t piece = 0, left = c->has_out ? c->out.bytes - c->out_at : 0;

	if (!(r[VMWARE_BX] & STATUS_SUCCESS)) {
		c->has_out = false;
		return STATUS_SUCCESS;
	}
	if (!left)
		return 0;
	left = left < 4 ? left : 4;
	memcpy(&piece, c->out.data + c->out_at, left);
	c->out_at += left;
	r[VMWARE_BX] = piece;
	r[VMWARE_DX] = (r[VMWARE_DX] & 0xffff) | TYPE_SENDPAYLOAD << 16;
	return STATUS_SUCCESS;
}

static unsigned receive_status(struct channel *c)
{
	if (!c->has_out)
		return 0;
	c->has_out = false;
	vmware_buffer_free(&c->out);
	return STATUS_SUCCESS;
}

/* ---- the low-bandwidth port ------------------------------------------------------------------------------------------ */

void vmware_message(struct vmware *w, uint32_t r[VMWARE_REGISTERS])
{
	unsigned type = r[VMWARE_CX] >> 16, status = 0;
	struct channel *c = NULL;

	if (type == TYPE_OPEN)
		status = channel_open(w, r);
	else
		c = channel_of(w, r[VMWARE_DX] >> 16, r[VMWARE_SI], r[VMWARE_DI]);
	if (c) {
		switch (type) {
		/* Sizes that guest tools may then send, or fetch, by the data port. */
		case TYPE_SENDSIZE:
			status = send_size(w, c, r[VMWARE_BX]);
			if (status && c->receiving)
				status |= STATUS_HB;
			break;
		case TYPE_SENDPAYLOAD: status = send_payload(w, c, r[VMWARE_BX]); break;
		case TYPE_RECVSIZE:
			status = receive_size(w, c, r);
			if (status & STATUS_DORECV)
				status |= STATUS_HB;
			break;
		case TYPE_RECVPAYLOAD: status = receive_payload(c, r); break;
		case TYPE_RECVSTATUS: status = receive_status(c); break;
		case TYPE_CLOSE:
			vmware_channel_close(c);
			status = STATUS_SUCCESS;
			break;
		default: break;
		}
	}
	if (!w->config.data_port)
		status &= ~STATUS_HB;
	if (!status)
		w->refused++;
	r[VMWARE_CX] = (r[VMWARE_CX] & 0xffff) | status << 16;
}

/* ---- the data port: ebp and the register that holds no address have the cookie ----------------------------------------- */

static struct channel *data_channel(struct machine *m, const uint32_t r[VMWARE_REGISTERS], bool to_guest)
{
	if ((r[VMWARE_BX] & 0xffff) != DATA_MESSAGE || !m->vmware)
		return NULL;
	return to_guest ? channel_of(m->vmware, r[VMWARE_DX] >> 16, r[VMWARE_SI], r[VMWARE_BP]) :
			  channel_of(m->vmware, r[VMWARE_DX] >> 16, r[VMWARE_BP], r[VMWARE_DI]);
}

static void data_status(uint32_t r[VMWARE_REGISTERS], unsigned status)
{
	r[VMWARE_BX] = (r[VMWARE_BX] & 0xffff) | status << 16;
}

uint32_t machine_backdoor_data_begin(struct machine *m, uint32_t r[VMWARE_REGISTERS], bool to_guest)
{
	uint32_t left = 0;

	machine_lock(m);
	const struct channel *c = data_channel(m, r, to_guest);
	if (c && to_guest)
		left = c->has_out ? c->out.bytes - c->out_at : 0;
	else if (c)
		left = c->receiving ? c->in_size - c->in.bytes : 0;
	if (!left || !r[VMWARE_CX]) {
		left = 0;
		data_status(r, 0);
	}
	machine_unlock(m);
	return left < r[VMWARE_CX] ? left : r[VMWARE_CX];
}

bool machine_backdoor_data_move(struct machine *m, const uint32_t r[VMWARE_REGISTERS], bool to_guest, void *bytes, uint32_t n)
{
	bool ok = false;

	machine_lock(m);
	struct channel *c = data_channel(m, r, to_guest);
	if (c && to_guest && c->has_out && n <= c->out.bytes - c->out_at) {
		memcpy(bytes, c->out.data + c->out_at, n);
		c->out_at += n;
		ok = true;
	} else if (c && !to_guest) {
		ok = take_payload(m->vmware, c, bytes, n);
	}
	machine_unlock(m);
	return ok;
}

void machine_backdoor_data_end(struct machine *m, uint32_t r[VMWARE_REGISTERS], bool to_guest)
{
	machine_lock(m);
	const struct channel *c = data_channel(m, r, to_guest);
	bool whole = c && (to_guest ? c->has_out && c->out_at == c->out.bytes : !c->receiving);
	data_status(r, whole ? STATUS_SUCCESS : 0);
	machine_unlock(m);
}
