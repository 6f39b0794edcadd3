/* SPDX-License-Identifier: Apache-2.0 */
/* A client that is told no, and how soon it knows.
 *
 *     denied client ADDRESS [CPU]   obeys one order a line, answers with how many, nanoseconds, and those of each
 *
 * Orders, N times each: refused N (connect to a port where nobody listens, or that is denied: from the call to the
 * error), reset N (connect, then a ClientHello of a denied name: from its last byte to the error), unreachable N (a
 * datagram to a denied port, from a connected socket: from the call to the error). Whatever else happens ends it. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

/* Twins: load.c, and the rules in place.py. */
enum { PORT_DENIED = 5004, PORT_FIRST = 443, PIECES_MAX = 4096, HELLO_MAX = 4096, PATIENCE_MS = 2000 };

static uint64_t took[PIECES_MAX];
static char hello[HELLO_MAX];
static size_t hello_length;

static int opened(int type) {
  struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
  int fd = check(socket(AF_INET, type, 0), "socket");

  check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), "SO_RCVTIMEO");
  check(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)), "SO_SNDTIMEO");
  return fd;
}

static int connecting(int fd, uint16_t port) {
  to.sin_port = htons(port);
  return connect(fd, (struct sockaddr *)&to, sizeof(to));
}

static void expect(bool is_denied, const char *what) {
  if (!is_denied)
    die(what);
}

static uint64_t refused(void) {
  int fd = opened(SOCK_STREAM);
  uint64_t begin = now_ns(), end;
  int result = connecting(fd, PORT_DENIED);

  end = now_ns();
  expect(result < 0 && errno == ECONNREFUSED, "a connection that should be refused");
  close(fd);
  return end - begin;
}

static uint64_t reset(void) {
  int fd = opened(SOCK_STREAM);
  uint64_t begin, end;
  ssize_t got;
  char byte;

  check(connecting(fd, PORT_FIRST), "connect");
  begin = now_ns();
  if (send(fd, hello, hello_length, MSG_NOSIGNAL) != (ssize_t)hello_length)
    die("send");
  got = recv(fd, &byte, 1, 0);
  end = now_ns();
  expect(got < 0 && errno == ECONNRESET, "a connection that should be reset");
  close(fd);
  return end - begin;
}

static uint64_t unreachable(void) {
  int fd = opened(SOCK_DGRAM);
  uint64_t begin, end;
  ssize_t got;
  char byte;

  check(connecting(fd, PORT_DENIED), "connect");
  begin = now_ns();
  check(send(fd, "denied", 6, 0), "send");
  got = recv(fd, &byte, 1, 0);
  end = now_ns();
  expect(got < 0 && errno != EAGAIN, "a datagram that should be answered with an error");
  close(fd);
  return end - begin;
}

static void serve(void) {
  die("there is nothing to serve");
}

static void client(void) {
  FILE *file = fopen(getenv("LOAD_HELLO") ?: "", "r");
  char line[128], order[32];
  unsigned n;

  if (!file || (hello_length = fread(hello, 1, sizeof(hello), file)) == 0)
    die("no ClientHello in the file that LOAD_HELLO names");
  fclose(file);
  puts("0 0"); /* ready */
  fflush(stdout);
  while (fgets(line, sizeof(line), stdin)) {
    uint64_t begin = now_ns();

    if (sscanf(line, "%31s %u", order, &n) != 2 || n > PIECES_MAX)
      die("an order that is none");
    for (unsigned i = 0; i < n; i++)
      took[i] = !strcmp(order, "refused") ? refused() : !strcmp(order, "reset") ? reset() : unreachable();
    printf("%u %llu", n, (unsigned long long)(now_ns() - begin));
    for (unsigned i = 0; i < n; i++)
      printf(" %llu", (unsigned long long)took[i]);
    puts("");
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  return run(argc, argv, serve, client);
}
