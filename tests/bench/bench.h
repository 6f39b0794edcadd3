/* What the benchmarks' programs share: a server and a client, of which the client is tied to a CPU. */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct sockaddr_in to = {.sin_family = AF_INET}; /* where the server is */

static uint64_t now_ns(void) {
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void die(const char *what) {
  fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
  exit(1);
}

static int check(int result, const char *what) {
  if (result < 0)
    die(what);
  return result;
}

static int run(int argc, char **argv, void (*serve)(void), void (*client)(void)) {
  cpu_set_t cpus;

  if (argc < 3 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
    die("usage: serve|client ADDRESS [CPU]");
  if (argc > 3) {
    CPU_ZERO(&cpus);
    CPU_SET(atoi(argv[3]), &cpus);
    check(sched_setaffinity(0, sizeof(cpus), &cpus), "sched_setaffinity");
  }
  if (!strcmp(argv[1], "serve"))
    serve();
  else
    client();
  return 0;
}
