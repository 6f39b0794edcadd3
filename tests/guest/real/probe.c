/* SPDX-License-Identifier: Apache-2.0 */
/* A client inside the guest that says how a try ended and how long it took, by the guest's own clock.
 *
 *     probe [-f FROM] [-w SECONDS] tcp ADDRESS PORT [FILE]      connects; sends the file, and waits for the first words
 *     probe [-f FROM] [-w SECONDS] udp ADDRESS PORT [FILE]      sends the file, or "hello", and waits likewise
 *
 * Prints one line: OUTCOME MILLISECONDS [ANSWER], where OUTCOME is "open", "answered", "closed", "silent" or an errno's
 * name, and the time is that of the last step: of connect(), or from sending to the answer. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double began_ms;
static int wait_ms = 3000;

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void say(const char *outcome, const char *answer) {
  printf("%s %.2f %s\n", outcome, now_ms() - began_ms, answer);
  exit(0);
}

static void say_error(int number) {
  say(strerrorname_np(number), "");
}

static void wait_for(int sock, short events) {
  struct pollfd one = {.fd = sock, .events = events};
  if (poll(&one, 1, wait_ms) == 0)
    say("silent", "");
}

static struct addrinfo *address_of(const char *address, const char *port) {
  struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
  int error = getaddrinfo(address, port, &hints, &found);
  if (error) {
    fprintf(stderr, "probe: %s: %s\n", address, gai_strerror(error));
    exit(2);
  }
  return found;
}

static size_t read_file(const char *name, char *text, size_t room) {
  FILE *file = fopen(name, "r");
  if (!file) {
    perror(name);
    exit(2);
  }
  return fread(text, 1, room, file);
}

static int connect_from(const char *from, const struct addrinfo *to, int type) {
  int sock = socket(to->ai_family, type | SOCK_NONBLOCK, 0), error = 0;
  socklen_t size = sizeof(error);
  if (from) {
    const struct addrinfo *here = address_of(from, "0");
    if (bind(sock, here->ai_addr, here->ai_addrlen))
      say_error(errno);
  }
  began_ms = now_ms();
  if (connect(sock, to->ai_addr, to->ai_addrlen)) {
    if (errno != EINPROGRESS)
      say_error(errno);
    wait_for(sock, POLLOUT);
    getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
      say_error(error);
  }
  return sock;
}

static void exchange(int sock, const char *text, size_t size) {
  char answer[100];
  ssize_t got;
  began_ms = now_ms();
  if (send(sock, text, size, MSG_NOSIGNAL) < 0)
    say_error(errno);
  wait_for(sock, POLLIN);
  got = recv(sock, answer, sizeof(answer) - 1, 0);
  if (got < 0)
    say_error(errno);
  for (ssize_t i = 0; i < got; i++)
    if (!isprint((unsigned char)answer[i]))
      answer[i] = i + 1 == got ? 0 : '?';
  answer[got] = 0;
  say(got ? "answered" : "closed", answer);
}

int main(int count, char **words) {
  const char *from = NULL;
  static char text[20000] = "hello";
  size_t size = 5;
  int option;
  while ((option = getopt(count, words, "f:w:")) != -1) {
    if (option == 'f')
      from = optarg;
    else if (option == 'w')
      wait_ms = atof(optarg) * 1000;
    else
      return 2;
  }
  words += optind;
  if (count - optind < 3)
    return 2;
  int is_tcp = !strcmp(words[0], "tcp");
  if (words[3])
    size = read_file(words[3], text, sizeof(text));
  int sock = connect_from(from, address_of(words[1], words[2]), is_tcp ? SOCK_STREAM : SOCK_DGRAM);
  if (is_tcp && !words[3])
    say("open", "");
  exchange(sock, text, size);
}
