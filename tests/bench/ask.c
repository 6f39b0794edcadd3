/* SPDX-License-Identifier: Apache-2.0 */
/* The client of the DNS benchmarks, and the resolver behind what they ask: both cost little beside what is measured.
 *
 *     ask serve ADDRESS             says "ready", answers every question until its input ends; then says how many
 *     ask client ADDRESS [CPU]      obeys one order a line, answers with how many, nanoseconds, and those of each
 *
 * Orders, N questions each: rate N (the same hundred names, WINDOW at a time: only the sum is told), vary N (the same,
 * but each in other upper and lower case than before), known N (the hundred one after the other), fresh N (other names,
 * one after the other), reach N (the same, and a TCP connection to what was answered, and its close). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

/* Twin: keeper.py. */
enum { PORT_REACHED = 5005, KNOWN = 100, FRESH = 3000, KNOWN_TTL = 300, FRESH_TTL = 1 };
enum { WINDOW = 128, PIECES_MAX = 4096, MESSAGE_MAX = 512, HEADER = 12, PATIENCE_MS = 5000 };

static uint64_t took[PIECES_MAX];
static uint16_t ident;
static unsigned fresh;
static bool varies;

/* The question for A of <letter><number>.bench.test, as a stub resolver writes it; its length. */
static int write_question(uint8_t *message, char letter, unsigned number) {
  char label[16];
  int length = snprintf(label, sizeof(label), "%c%u", letter, number), at = HEADER;

  ident++;
  memcpy(message, (uint8_t[HEADER]){ident >> 8, ident, 1, 0, 0, 1}, HEADER);
  message[at++] = length;
  memcpy(message + at, label, length);
  at += length;
  memcpy(message + at, "\5bench\4test\0\0\1\0\1", 16);
  if (varies)
    for (int letter = 0; letter < 9; letter++)
      message[at + 1 + letter + letter / 5] ^= ident * 40503u >> letter & 32;
  return at + 16;
}

static void send_question(int fd, char letter, unsigned number) {
  uint8_t message[MESSAGE_MAX];

  check(send(fd, message, write_question(message, letter, number), 0), "send");
}

/* One answer, which must hold an address, at its end. */
static struct in_addr take_answer(int fd) {
  struct pollfd readable = {.fd = fd, .events = POLLIN};
  uint8_t message[MESSAGE_MAX];
  struct in_addr address;
  int length;

  while ((length = recv(fd, message, sizeof(message), MSG_DONTWAIT)) < 0)
    if (errno != EAGAIN || poll(&readable, 1, PATIENCE_MS) != 1)
      die("no answer");
  if (length < HEADER + 16 || (message[3] & 15) || message[7] != 1) {
    errno = EBADMSG;
    die("an answer without an address");
  }
  memcpy(&address, message + length - 4, 4);
  return address;
}

static int asking(void) {
  int fd = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");

  to.sin_port = htons(53);
  check(connect(fd, (struct sockaddr *)&to, sizeof(to)), "connect");
  return fd;
}

static void ask_many(int fd, unsigned n) {
  unsigned sent = 0;

  for (unsigned answered = 0; answered < n; answered++) {
    while (sent < n && sent - answered < WINDOW) {
      send_question(fd, 'k', sent % KNOWN);
      sent++;
    }
    take_answer(fd);
  }
}

static void connect_to(struct in_addr address) {
  struct sockaddr_in reached = {.sin_family = AF_INET, .sin_port = htons(PORT_REACHED), .sin_addr = address};
  int fd = check(socket(AF_INET, SOCK_STREAM, 0), "socket");

  check(connect(fd, (struct sockaddr *)&reached, sizeof(reached)), "connect");
  close(fd);
}

static void ask_each(int fd, const char *order, unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    uint64_t begin = now_ns();
    struct in_addr address;

    if (order[0] == 'k')
      send_question(fd, 'k', i % KNOWN);
    else
      send_question(fd, 'f', fresh++ % FRESH);
    address = take_answer(fd);
    if (order[0] == 'r')
      connect_to(address);
    took[i] = now_ns() - begin;
  }
}

static void client(void) {
  char line[128], order[32];
  int fd = asking();
  unsigned n;

  puts("0 0"); /* ready */
  fflush(stdout);
  while (fgets(line, sizeof(line), stdin)) {
    bool is_sum = line[0] == 'v' || !strncmp(line, "rate", 4);
    uint64_t begin = now_ns();

    if (sscanf(line, "%31s %u", order, &n) != 2 || (!is_sum && n > PIECES_MAX) || !strchr("rvkf", order[0]))
      die("an order that is none");
    varies = line[0] == 'v';
    is_sum ? ask_many(fd, n) : ask_each(fd, order, n);
    printf("%u %llu", n, (unsigned long long)(now_ns() - begin));
    for (unsigned i = 0; !is_sum && i < n; i++)
      printf(" %llu", (unsigned long long)took[i]);
    puts("");
    fflush(stdout);
  }
}

/* Every name has an address of 203.0.113.0/24, all of which are the bed's hosts. */
static void *answer_questions(void *argument) {
  unsigned *count = argument;
  struct sockaddr_storage from;
  uint8_t message[MESSAGE_MAX];
  int fd = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");

  to.sin_port = htons(53);
  check(bind(fd, (struct sockaddr *)&to, sizeof(to)), "bind");
  for (;;) {
    socklen_t size = sizeof(from);
    int length = recvfrom(fd, message, sizeof(message) - 16, 0, (struct sockaddr *)&from, &size), end = HEADER;
    uint16_t ttl = FRESH_TTL;

    if (length < HEADER + 7)
      continue;
    ++*count;
    while (end < length && message[end])
      end += message[end] + 1;
    end += 5;
    if (message[HEADER + 1] == 'k')
      ttl = KNOWN_TTL;
    memcpy(message + 2, (uint8_t[10]){0x81, 0x80, 0, 1, 0, 1}, 10);
    memcpy(message + end, (uint8_t[16]){0xc0, HEADER, 0, 1, 0, 1, 0, 0, ttl >> 8, ttl, 0, 4, 203, 0, 113, 0}, 16);
    message[end + 15] = 100 + message[HEADER + 2] % 10 * 10 + message[HEADER + 3] % 10;
    sendto(fd, message, end + 16, 0, (struct sockaddr *)&from, size);
  }
  return 0;
}

static void *accept_all(void *argument) {
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT_REACHED)};
  int fd = check(socket(AF_INET, SOCK_STREAM, 0), "socket"), yes = 1;
  char byte;

  (void)argument;
  check(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)), "SO_REUSEADDR");
  check(bind(fd, (struct sockaddr *)&any, sizeof(any)), "bind");
  check(listen(fd, 4096), "listen");
  for (;;) {
    int one = check(accept(fd, 0, 0), "accept");

    recv(one, &byte, 1, 0); /* the client closes first */
    close(one);
  }
  return 0;
}

static void serve(void) {
  static volatile unsigned count;
  pthread_t thread;
  char byte;

  check(-pthread_create(&thread, 0, answer_questions, (void *)&count), "pthread_create");
  check(-pthread_create(&thread, 0, accept_all, 0), "pthread_create");
  usleep(50000);
  puts("ready");
  fflush(stdout);
  while (read(0, &byte, 1) > 0) {
    printf("%u\n", count); /* how many so far, for every byte that comes */
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  return run(argc, argv, serve, client);
}
