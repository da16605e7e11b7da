/* The floor that every server stands on: one frame, sent to every client, and nothing else.

   usage: send_loop CLIENTS FRAME_FILE

   Prints the port that it listens on (127.0.0.1), accepts CLIENTS connections, prints "ready".
   Then every line on its standard input is a number: how many copies of the frame are joined
   into the one buffer that each client is sent. It ends with its input. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_JOINED 1000

static void fail(const char *what) {
    perror(what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s CLIENTS FRAME_FILE\n", argv[0]);
        return 2;
    }
    int clients = atoi(argv[1]);
    int *fds = calloc(clients, sizeof *fds);
    static char frame[1 << 20];
    FILE *file = fopen(argv[2], "rb");
    if (!file) fail(argv[2]);
    size_t size = fread(frame, 1, sizeof frame, file);
    char *joined = malloc(size * MAX_JOINED);
    if (!fds || !joined) fail("memory");
    for (int i = 0; i < MAX_JOINED; i++) memcpy(joined + i * size, frame, size);

    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, length) < 0) fail("bind");
    if (listen(listener, 4096) < 0) fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int on = 1;
    for (int i = 0; i < clients; i++) {
        if ((fds[i] = accept(listener, NULL, NULL)) < 0) fail("accept");
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    puts("ready");
    fflush(stdout);

    char line[32];
    while (fgets(line, sizeof line, stdin)) {
        int copies = atoi(line);
        if (copies < 1 || copies > MAX_JOINED) continue;
        for (int i = 0; i < clients; i++) {
            const char *at = joined;
            size_t left = size * copies;
            while (left) { /* a blocking socket: this waits for a receiver that is behind */
                ssize_t sent = send(fds[i], at, left, MSG_NOSIGNAL);
                if (sent < 0) fail("send");
                at += sent;
                left -= sent;
            }
        }
    }
    return 0;
}
