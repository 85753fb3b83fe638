// A microphone that picks up silence, and in it whatever `say` is given: a WAV file in base64.
(() => {
  const room = new AudioContext({ sampleRate: 48000 });
  const microphone = room.createMediaStreamDestination();
  const silence = room.createConstantSource();
  silence.offset.value = 0;
  silence.connect(microphone);
  silence.start();
  navigator.mediaDevices.getUserMedia = async () => microphone.stream.clone();

  window.say = async (recording) => {
    const bytes = Uint8Array.from(atob(recording), (character) => character.charCodeAt(0));
    const source = room.createBufferSource();
    source.buffer = await room.decodeAudioData(bytes.buffer);
    source.connect(microphone);
    const said = new Promise((resolve) => (source.onended = resolve));
    source.start();
    await said;
  };
})();
