/** A shared worker that has the connection for all tabs of a site. Its name is the server's address. */

import { Client } from "../clarion-client.js";

const client = new Client(self.name);

self.onconnect = ({ ports: [port] }) => {
  const left = new AbortController();
  const subscriptions = [];
  const pass = ({ detail }) => port.postMessage({ ...detail }); // a copy, as a loss is an Error

  port.onmessage = ({ data: { subscribe, leave } }) => {
    if (subscribe) {
      const subscription = client.subscribe(subscribe);
      for (const type of ["message", "lost"]) subscription.addEventListener(type, pass);
      subscriptions.push(subscription);
    }
    if (leave) {
      left.abort();
      for (const subscription of subscriptions) subscription.close();
    }
  };
  port.postMessage({ state: client.state });
  client.addEventListener("state", pass, { signal: left.signal });
};
