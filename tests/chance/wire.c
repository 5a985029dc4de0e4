// A wire for a whole loopback network, as netem makes one where the kernel has it: wire NAME LONGEST_US makes the TUN device NAME and gives
// every packet back after a random time of up to LONGEST_US microseconds, those of one direction of one conversation in their order.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct packet {
    uint64_t due_us;
    long length;
    unsigned char *bytes;
};

// The packet that is due first is at 0, and none is due before the one at half of its place.
static struct packet *heap;
static long count, room;

static uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void swap(long a, long b) {
    struct packet packet = heap[a];
    heap[a] = heap[b];
    heap[b] = packet;
}

static void push(struct packet packet) {
    if (count == room) heap = realloc(heap, (room = 2 * room + 1024) * sizeof *heap);
    heap[count] = packet;
    for (long at = count++; at && heap[(at - 1) / 2].due_us > heap[at].due_us; at = (at - 1) / 2) swap(at, (at - 1) / 2);
}

static struct packet pop(void) {
    struct packet first = heap[0];
    heap[0] = heap[--count];
    for (long at = 0, least;; at = least) {
        least = at;
        for (long child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++)
            if (heap[child].due_us < heap[least].due_us) least = child;
        if (least == at) return first;
        swap(at, least);
    }
}

int main(int argc, char **argv) {
    static uint64_t last_us[65536];
    static unsigned char bytes[65536];
    if (argc != 3) return 2;
    struct ifreq device = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    strncpy(device.ifr_name, argv[1], IFNAMSIZ - 1);
    long longest_us = atol(argv[2]) + 1;
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (tun < 0 || ioctl(tun, TUNSETIFF, &device)) {
        perror("/dev/net/tun");
        return 1;
    }
    for (;;) {
        for (uint64_t now = now_us(); count && heap[0].due_us <= now;) {
            struct packet packet = pop();
            // What the kernel has no room for is lost, as elsewhere.
            if (write(tun, packet.bytes, packet.length) < 0) perror("a packet is lost");
            free(packet.bytes);
        }
        uint64_t now = now_us(), wait_us = count && heap[0].due_us > now ? heap[0].due_us - now : 0;
        struct timespec wait = {wait_us / 1000000, wait_us % 1000000 * 1000};
        struct pollfd looked_at = {.fd = tun, .events = POLLIN};
        ppoll(&looked_at, 1, count ? &wait : 0, 0);
        for (long length; (length = read(tun, bytes, sizeof bytes)) > 0;) {
            int ports_at = (bytes[0] & 15) * 4;
            if (bytes[0] >> 4 != 4 || length < ports_at + 4) continue;
            uint16_t conversation = 0;
            for (int at = 12; at < 20; at++) conversation = conversation * 31 + bytes[at];
            for (int at = ports_at; at < ports_at + 4; at++) conversation = conversation * 31 + bytes[at];
            uint64_t due_us = now_us() + rand() % longest_us;
            if (due_us < last_us[conversation]) due_us = last_us[conversation];
            last_us[conversation] = due_us;
            unsigned char *copy = malloc(length);
            memcpy(copy, bytes, length);
            push((struct packet){due_us, length, copy});
        }
    }
}
