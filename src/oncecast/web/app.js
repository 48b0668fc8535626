// The page: what is published, what is broadcast, what died, how the system is. Each part keeps to itself; they meet here.

import { startAccess } from "./access.js";
import { startBroadcast } from "./broadcast.js";
import { startComposer } from "./composer.js";
import { startConflicts } from "./conflicts.js";
import { startFailing } from "./failing.js";
import { startLetters } from "./letters.js";
import { startSystem } from "./system.js";

startAccess();
const broadcast = startBroadcast();
const composer = startComposer(broadcast);
const letters = startLetters();
const conflicts = startConflicts();
const failing = startFailing({ onReplayed: letters.refresh });
await startSystem({
  onStatus(status) {
    composer.follow(status);
    failing.follow(status);
    letters.follow(status);
    conflicts.follow(status);
  },
});
broadcast.connect(); // by now it is known whether reading needs a token
