/* SPDX-License-Identifier: Apache-2.0 */
/* A guest of which only the frames exist: what a virtual machine's monitor does with its tap, without the machine.
 *
 *     frames TAP MAC FROM TO CPU    makes the tap, then obeys one order a line, answers with how many, nanoseconds, and
 *                                   those of each where there is anything to tell of each
 *
 * Orders: send N (64-byte UDP datagrams to an allowed port), syn N (each to a denied port: from the write until the
 * RST is read). MAC and FROM are the guest's; the tap's own address may be set while no order is obeyed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

/* Twins: load.c, and the rules in place.py. */
enum { PORT_UDP = 5003, PORT_DENIED = 5004, DATAGRAM = 64, PIECES_MAX = 4096, PATIENCE_MS = 2000, FRAME_MAX = 65536 };

struct datagram {
  struct ethhdr ethernet;
  struct iphdr ip;
  struct udphdr udp;
  uint8_t payload[DATAGRAM];
} __attribute__((packed));

struct segment {
  struct ethhdr ethernet;
  struct iphdr ip;
  struct tcphdr tcp;
} __attribute__((packed));

static uint8_t guest[ETH_ALEN];
static struct ifreq request;
static struct in_addr from;
static uint64_t took[PIECES_MAX];
static int tap;

static uint32_t sum(const void *data, size_t length, uint32_t so_far) {
  const uint8_t *bytes = data;

  for (size_t i = 0; i < length; i++)
    so_far += i % 2 ? bytes[i] : bytes[i] << 8;
  return so_far;
}

static uint16_t checksum(uint32_t so_far) {
  while (so_far >> 16)
    so_far = (so_far & 0xffff) + (so_far >> 16);
  return htons(~so_far);
}

/* Everything up to the transport header; returns the sum of the pseudo header. */
static uint32_t write_headers(void *frame, uint8_t protocol, uint16_t length) {
  struct ethhdr ethernet = {.h_proto = htons(ETH_P_IP)};
  struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = protocol, .frag_off = htons(0x4000)};

  memcpy(ethernet.h_dest, request.ifr_hwaddr.sa_data, ETH_ALEN);
  memcpy(ethernet.h_source, guest, ETH_ALEN);
  ip.tot_len = htons(sizeof(ip) + length);
  ip.saddr = from.s_addr;
  ip.daddr = to.sin_addr.s_addr;
  ip.check = checksum(sum(&ip, sizeof(ip), 0));
  memcpy(frame, &ethernet, sizeof(ethernet));
  memcpy(frame + sizeof(ethernet), &ip, sizeof(ip));
  return sum(&ip.saddr, 8, protocol + length);
}

static void send_datagrams(unsigned n) {
  static struct datagram frame;
  uint16_t length = sizeof(frame.udp) + DATAGRAM;
  uint32_t pseudo = write_headers(&frame, IPPROTO_UDP, length);

  frame.udp = (struct udphdr){.source = htons(40000), .dest = htons(PORT_UDP), .len = htons(length)};
  frame.udp.check = checksum(sum(&frame.udp, length, pseudo));
  for (unsigned i = 0; i < n; i++)
    check(write(tap, &frame, sizeof(frame)), "write");
}

/* Frames that are no answer to this port are for somebody that does not exist here. */
static void await_reset(uint16_t port) {
  struct pollfd readable = {.fd = tap, .events = POLLIN};
  static uint8_t frame[FRAME_MAX];
  struct segment *segment = (struct segment *)frame;

  for (;;) {
    ssize_t length = read(tap, frame, sizeof(frame));

    if (length < 0 && (errno != EAGAIN || poll(&readable, 1, PATIENCE_MS) != 1))
      die("no RST");
    if (length >= (ssize_t)sizeof(*segment) && segment->ethernet.h_proto == htons(ETH_P_IP) &&
        segment->ip.protocol == IPPROTO_TCP && segment->tcp.dest == htons(port) && segment->tcp.rst)
      return;
  }
}

static void send_syns(unsigned n) {
  static uint16_t port = 20000;

  for (unsigned i = 0; i < n; i++) {
    struct segment frame;
    uint64_t begin;
    uint32_t pseudo = write_headers(&frame, IPPROTO_TCP, sizeof(frame.tcp));

    port = port == 60000 ? 20000 : port + 1;
    frame.tcp = (struct tcphdr){.source = htons(port), .dest = htons(PORT_DENIED), .seq = htonl(1000), .syn = 1};
    frame.tcp.doff = sizeof(frame.tcp) / 4;
    frame.tcp.window = htons(64000);
    frame.tcp.check = checksum(sum(&frame.tcp, sizeof(frame.tcp), pseudo));
    begin = now_ns();
    check(write(tap, &frame, sizeof(frame)), "write");
    await_reset(port);
    took[i] = now_ns() - begin;
  }
}

static void open_tap(const char *name) {
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  tap = check(open("/dev/net/tun", O_RDWR | O_NONBLOCK), "/dev/net/tun");
  check(ioctl(tap, TUNSETIFF, &request), "TUNSETIFF");
}

int main(int argc, char **argv) {
  char line[128], order[32];
  cpu_set_t cpus;
  unsigned n;

  if (argc != 6 || inet_pton(AF_INET, argv[3], &from) != 1 || inet_pton(AF_INET, argv[4], &to.sin_addr) != 1)
    die("usage: TAP MAC FROM TO CPU");
  if (sscanf(argv[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &guest[0], &guest[1], &guest[2], &guest[3], &guest[4],
             &guest[5]) != ETH_ALEN)
    die("the guest's address is none");
  CPU_ZERO(&cpus);
  CPU_SET(atoi(argv[5]), &cpus);
  check(sched_setaffinity(0, sizeof(cpus), &cpus), "sched_setaffinity");
  open_tap(argv[1]);
  puts("0 0"); /* ready */
  fflush(stdout);
  while (fgets(line, sizeof(line), stdin)) {
    uint64_t begin;

    check(ioctl(tap, SIOCGIFHWADDR, &request), "SIOCGIFHWADDR");
    begin = now_ns();
    if (sscanf(line, "%31s %u", order, &n) != 2 || (strcmp(order, "send") && n > PIECES_MAX))
      die("an order that is none");
    strcmp(order, "send") ? send_syns(n) : send_datagrams(n);
    printf("%u %llu", n, (unsigned long long)(now_ns() - begin));
    for (unsigned i = 0; strcmp(order, "send") && i < n; i++)
      printf(" %llu", (unsigned long long)took[i]);
    puts("");
    fflush(stdout);
  }
  return 0;
}
