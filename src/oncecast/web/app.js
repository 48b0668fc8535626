// The page: what is published, what is broadcast, what died, how the system is. Each part keeps to itself; they meet here.

import { startAccess } from "./access.js";
import { startBroadcast } from "./broadcast.js";
import { startComposer } from "./composer.js";
import { startFailing } from "./failing.js";
import { startLetters } from "./letters.js";
import { startSystem } from "./system.js";

startAccess();
const composer = startComposer(startBroadcast());
const letters = startLetters();
const failing = startFailing({ onReplayed: letters.refresh });
startSystem({
  onStatus(status) {
    composer.follow(status);
    failing.follow(status);
    letters.follow(status);
  },
});
