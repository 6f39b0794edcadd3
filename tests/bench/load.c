/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmarks' client and server: a system call costs it a microsecond, where Python's own work would hide what is
 * measured. Twin: load.py, which does the same where there is no compiler.
 *
 *     load serve ADDRESS            says "ready", then serves until its input ends
 *     load client ADDRESS [CPU]     obeys one order a line, answers with two numbers: how many, and nanoseconds
 *
 * Orders: connect N, first N, tls MS, tcp MS, take MS, send N, sendto N, denied PER_SECOND MS. What they do stands at each. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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

/* Twins: load.py, and the rules in place.py. */
enum { PORT_CONNECT = 5001, PORT_SINK = 5002, PORT_UDP = 5003, PORT_DENIED = 5004, PORT_FIRST = 443, PORT_TLS = 8443 };
enum { LEFT_OVER_NS = 10000000 };
enum { BLOCK = 65536, RECORD = 16384, DATAGRAM = 64, HELLO_MAX = 4096 };

static char block[BLOCK];
static char hello[HELLO_MAX];
static size_t hello_length;
/* A change of cipher and the beginning of application data: what a TLS 1.3 client sends once it has its answer. */
static const char second_flight[] = "\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x20"
                                    "................................";

static struct sockaddr *at_port(uint16_t port) {
  to.sin_port = htons(port);
  return (struct sockaddr *)&to;
}

static int connected(int type, uint16_t port) {
  int fd = check(socket(AF_INET, type, 0), "socket");

  check(connect(fd, at_port(port), sizeof(to)), "connect");
  return fd;
}

static void send_all(int fd, const char *data, size_t length) {
  while (length) {
    ssize_t sent = send(fd, data, length, 0);

    if (sent <= 0)
      die("send");
    data += sent;
    length -= sent;
  }
}

/* The first flight of a TLS connection and the second, without the cryptography between them. */
static void shake_hands(int fd) {
  char answer[64];

  send_all(fd, hello, hello_length);
  check(recv(fd, answer, sizeof(answer), 0) - 1, "recv");
  send_all(fd, second_flight, sizeof(second_flight) - 1);
  check(recv(fd, answer, sizeof(answer), 0) - 1, "recv");
}

/* N times: a TCP connection to a server that closes it when we do. */
static uint64_t connect_and_close(uint64_t n) {
  for (uint64_t i = 0; i < n; i++)
    close(connected(SOCK_STREAM, PORT_CONNECT));
  return n;
}

/* N times: connect, a real ClientHello, an answer, the second flight, an answer, close. */
static uint64_t first_flights(uint64_t n) {
  for (uint64_t i = 0; i < n; i++) {
    int fd = connected(SOCK_STREAM, PORT_FIRST);

    shake_hands(fd);
    close(fd);
  }
  return n;
}

/* For so many milliseconds: 64 KiB writes on one connection, which stays open from order to order. */
static uint64_t write_bulk(int *fd, uint16_t port, bool is_tls, uint64_t ms) {
  uint64_t end = now_ns() + ms * 1000000, sent = 0;

  if (*fd < 0) {
    *fd = connected(SOCK_STREAM, port);
    if (is_tls)
      shake_hands(*fd);
  }
  do {
    send_all(*fd, block, BLOCK);
    sent += BLOCK;
  } while (now_ns() < end);
  return sent;
}

/* The same the other way: what the server sends as fast as it is taken. What came between two orders is not counted. */
static uint64_t take_bulk(int *fd, uint64_t ms, uint64_t *begin) {
  static char taken[4 * BLOCK];
  uint64_t start = now_ns(), received = 0;

  if (*fd < 0) {
    *fd = connected(SOCK_STREAM, PORT_SINK);
    send_all(*fd, "G", 1);
  }
  *begin = start + LEFT_OVER_NS;
  do {
    ssize_t got = recv(*fd, taken, sizeof(taken), 0);

    if (got <= 0)
      die("recv");
    if (now_ns() > *begin)
      received += got;
  } while (now_ns() < *begin + ms * 1000000);
  return received;
}

static uint64_t send_datagrams(int *fd, uint64_t n) {
  if (*fd < 0)
    *fd = connected(SOCK_DGRAM, PORT_UDP);
  for (uint64_t i = 0; i < n; i++)
    check(send(*fd, block, DATAGRAM, 0), "send");
  return n;
}

static uint64_t sendto_datagrams(int *fd, uint64_t n) {
  if (*fd < 0)
    *fd = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");
  for (uint64_t i = 0; i < n; i++)
    check(sendto(*fd, block, DATAGRAM, 0, at_port(PORT_UDP), sizeof(to)), "sendto");
  return n;
}

/* Datagrams that are denied, at a steady rate (in bursts of a millisecond's worth): each makes one verdict. */
static uint64_t send_denied(int *fd, uint64_t per_second, uint64_t ms) {
  uint64_t begin = now_ns(), burst = per_second / 1000 ?: 1, total = per_second * ms / 1000, sent = 0;

  if (*fd < 0)
    *fd = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");
  while (sent < total) {
    uint64_t due = begin + sent * 1000000000ULL / per_second, now = now_ns();

    if (now < due) {
      struct timespec left = {.tv_nsec = due - now};

      nanosleep(&left, 0);
      continue;
    }
    for (uint64_t i = 0; i < burst && sent < total; i++, sent++)
      if (sendto(*fd, block, DATAGRAM, 0, at_port(PORT_DENIED), sizeof(to)) >= 0 || errno != EPERM)
        die("a datagram that should be denied");
  }
  return sent;
}

static void client(void) {
  int tls = -1, tcp = -1, taking = -1, udp = -1, unconnected = -1, denied = -1;
  unsigned long long first, second;
  char line[128], word[32];
  FILE *file;

  file = fopen(getenv("LOAD_HELLO") ?: "", "r");
  if (!file || (hello_length = fread(hello, 1, sizeof(hello), file)) == 0)
    die("no ClientHello in the file that LOAD_HELLO names");
  fclose(file);
  puts("0 0"); /* ready */
  fflush(stdout);
  for (size_t at = 0; at < BLOCK; at += RECORD) /* application data, in records of 16 KiB */
    memcpy(block + at, "\x17\x03\x03\x3f\xfb", 5);
  while (fgets(line, sizeof(line), stdin)) {
    uint64_t begin, done = 0;

    second = 0;
    if (sscanf(line, "%31s %llu %llu", word, &first, &second) < 2)
      die("an order that is none");
    if ((!strcmp(word, "tls") && tls < 0) || (!strcmp(word, "tcp") && tcp < 0))
      write_bulk(word[1] == 'l' ? &tls : &tcp, word[1] == 'l' ? PORT_TLS : PORT_SINK, word[1] == 'l', 20);
    begin = now_ns();
    if (!strcmp(word, "connect"))
      done = connect_and_close(first);
    else if (!strcmp(word, "first"))
      done = first_flights(first);
    else if (!strcmp(word, "tls"))
      done = write_bulk(&tls, PORT_TLS, 1, first);
    else if (!strcmp(word, "tcp"))
      done = write_bulk(&tcp, PORT_SINK, 0, first);
    else if (!strcmp(word, "take"))
      done = take_bulk(&taking, first, &begin);
    else if (!strcmp(word, "send"))
      done = send_datagrams(&udp, first);
    else if (!strcmp(word, "sendto"))
      done = sendto_datagrams(&unconnected, first);
    else if (!strcmp(word, "denied"))
      done = send_denied(&denied, first, second);
    else
      die("an order nobody knows");
    printf("%llu %llu\n", (unsigned long long)done, (unsigned long long)(now_ns() - begin));
    fflush(stdout);
  }
}

static int listening(int type, uint16_t port) {
  int fd = check(socket(AF_INET, type, 0), "socket"), yes = 1, small = 4096;

  check(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)), "SO_REUSEADDR");
  if (type == SOCK_DGRAM) /* nobody reads: what comes is dropped at once, which costs all alike */
    check(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), "SO_RCVBUF");
  check(bind(fd, at_port(port), sizeof(to)), "bind");
  if (type == SOCK_STREAM)
    check(listen(fd, 4096), "listen");
  return fd;
}

struct served {
  int fd;
  bool answers; /* a word to each of the first two messages */
  bool gives;   /* all that is taken, to whom asks with a G */
};

static void *serve_one(void *argument) {
  struct served served = *(struct served *)argument;
  static const char answer[] = "answer";
  char *buffer = malloc(4 * BLOCK);
  int heard = 0;

  free(argument);
  while (recv(served.fd, buffer, 4 * BLOCK, 0) > 0)
    if (served.answers && heard++ < 2)
      send(served.fd, answer, sizeof(answer), MSG_NOSIGNAL);
    else if (served.gives && buffer[0] == 'G')
      while (send(served.fd, buffer, 4 * BLOCK, MSG_NOSIGNAL) > 0)
        ;
  close(served.fd);
  free(buffer);
  return 0;
}

/* Connections that are opened by the thousand are served by this one thread, others by one each. */
static void *serve_port(void *argument) {
  uint16_t port = (uintptr_t)argument;
  int listener = listening(SOCK_STREAM, port);

  for (;;) {
    struct served *served = malloc(sizeof(*served));
    pthread_t thread;

    served->fd = accept(listener, 0, 0);
    served->gives = port == PORT_SINK;
    served->answers = port != PORT_SINK && port != PORT_CONNECT;
    if (served->fd < 0)
      die("accept");
    if (port == PORT_CONNECT || port == PORT_FIRST) {
      serve_one(served);
    } else {
      check(-pthread_create(&thread, 0, serve_one, served), "pthread_create");
      pthread_detach(thread);
    }
  }
  return 0;
}

static void serve(void) {
  static const uint16_t ports[] = {PORT_CONNECT, PORT_SINK, PORT_FIRST, PORT_TLS};
  pthread_t thread;
  char byte;

  listening(SOCK_DGRAM, PORT_UDP);
  for (size_t i = 0; i < sizeof(ports) / sizeof(ports[0]); i++)
    check(-pthread_create(&thread, 0, serve_port, (void *)(uintptr_t)ports[i]), "pthread_create");
  usleep(50000);
  puts("ready");
  fflush(stdout);
  while (read(0, &byte, 1) > 0)
    ;
}

int main(int argc, char **argv) {
  return run(argc, argv, serve, client);
}
